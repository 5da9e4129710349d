"""What is shown of runs, and `dfkd distill`."""

import json

import pytest
from command_line import as_json, dfkd, told
from small_tasks import EPOCHS, write_task

pytest_plugins = ["small_task_fixtures", "command_line"]
pytestmark = pytest.mark.usefixtures("dfkd_cache", "no_ray")


@pytest.fixture(scope="module")
def storage(stripes_storage, done):
    """A storage folder with the run `done`."""
    return stripes_storage


def test_runs_are_listed(storage):
    shown = told("runs", "--storage", storage)
    assert all(word in shown for word in ("done", "stripes", "finished", "1 of 1"))


def test_an_empty_storage_folder_says_how_to_begin(tmp_path):
    assert "dfkd sweep digits" in told("runs", "--storage", tmp_path)


def test_runs_can_be_had_as_json(storage, done):
    (facts,) = as_json(told("runs", "--storage", storage, "--json"))
    assert (facts["name"], facts["score"]) == ("done", done.best.best["score"])


def test_no_runs_are_no_json(tmp_path):
    assert told("runs", "--storage", tmp_path, "--json") == ""


def test_the_status_shows_the_leaderboard(storage, done):
    shown = told("status", "done", "--storage", storage)
    best = f"{done.best.best['score']:.4f}"
    assert all(word in shown for word in ("t000", "nayer", f"{EPOCHS}/{EPOCHS}", best, "finished"))


def test_the_status_is_of_the_latest_run_by_default(storage):
    assert as_json(told("status", "--storage", storage, "--json"))[0]["name"] == "done"


def test_an_evaluation_shows_both_accuracies(storage, done):
    shown = told("evaluate", "done", "--storage", storage)
    assert f"{100 * done.teacher_accuracy:.2f} %" in shown
    assert f"{100 * done.best.best['accuracy']:.2f} %" in shown
    assert "60 labeled images" in shown


def test_an_evaluation_can_be_had_as_json(storage, done):
    (facts,) = as_json(told("evaluate", "done", "--storage", storage, "--json"))
    assert facts["accuracy"] == pytest.approx(done.best.best["accuracy"])


def test_an_export_says_what_it_wrote(storage, tmp_path):
    shown = told("export", "done", "--storage", storage, "--to", tmp_path / "to", "--format", "pt")
    assert "model.pt" in shown
    assert (tmp_path / "to" / "model.pt").is_file()


def test_a_finished_run_can_be_resumed(storage):
    assert "best student (t000)" in told("resume", "done", "--storage", storage)


@pytest.mark.parametrize("odd", ["runs[old]", "runs[/b]"])
@pytest.mark.parametrize("command", ["runs", "status", "export"])
def test_a_path_is_shown_as_it_is(stripes_file, tmp_path, command, odd):
    """Rich takes what stands in brackets for markup."""
    folder = tmp_path / odd
    if command == "runs":
        assert str(folder) in told("runs", "--storage", folder)
        return
    told("distill", stripes_file, "--storage", folder, "--name", "mine", "--epochs", 2)
    to = ["mine", "--to", folder / "to"] if command == "export" else []
    assert str(folder) in told(command, *to, "--storage", folder)


# Distilling


def test_distilling_says_where_the_student_is(stripes_file, tmp_path):
    shown = told("distill", stripes_file, "--storage", tmp_path, "--name", "mine")
    assert str(tmp_path / "mine" / "best") in shown


@pytest.fixture(scope="module")
def json_lines(stripes_file, stripes_teacher, tmp_path_factory):
    storage = tmp_path_factory.mktemp("storage")
    return as_json(told("distill", stripes_file, "--storage", storage, "--json"))


def test_json_lines_tell_everything_in_order(json_lines):
    events = [line["event"] for line in json_lines]
    assert [event for event in events if event != "remark"] == [
        "sweep_started",
        "trial_started",
        *["epoch"] * EPOCHS,
        "trial_ended",
        "sweep_ended",
    ]


def test_the_last_json_line_holds_the_outcome(json_lines, done):
    last = json_lines[-1]
    assert (last["best"], last["score"]) == ("t000", done.best.best["score"])
    assert last["teacher_accuracy"] == done.teacher_accuracy


def test_json_is_all_there_is_when_a_teacher_is_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "cache"))
    task = write_task(tmp_path)
    lines = as_json(told("distill", task, "--storage", tmp_path / "runs", "--json"))
    assert lines[0]["event"] == "remark"


def test_options_reach_the_trial(stripes_file, tmp_path):
    arguments = ["--storage", tmp_path, "--json", "--method", "noise", "--epochs", 2, "--seed", 3]
    arguments += ["--set", "kd_steps=3", "--set", "temperature=7", "--student", "convnet-2-2"]
    arguments += ["--name", "mine", "--export-dir", tmp_path / "copy"]
    told("distill", stripes_file, *arguments)
    spec = json.loads((tmp_path / "mine" / "trials" / "t000" / "recipe.json").read_text())
    assert [spec[key] for key in ("method", "epochs", "seed", "student")] == [
        "noise",
        2,
        3,
        "convnet-2-2",
    ]
    assert (spec["recipe"]["kd_steps"], spec["recipe"]["temperature"]) == (3, 7.0)
    assert (tmp_path / "copy" / "model.safetensors").is_file()


def test_a_trial_that_fails_is_exit_status_1_with_advice(stripes_file, tmp_path):
    wild = ["--set", "student_lr=1e30", "--set", "clip_norm=0"]
    result = dfkd("distill", stripes_file, "--storage", tmp_path, *wild)
    assert result.exit_code == 1
    assert "student_lr below" in result.stderr


def test_an_interruption_is_exit_status_130_with_the_way_on(stripes_file, tmp_path, monkeypatch):
    from dfkd.orchestrator import sweeps

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "run_trial", interrupt)
    result = dfkd("distill", stripes_file, "--storage", tmp_path, "--name", "mine")
    assert result.exit_code == 130
    assert f"dfkd resume mine --storage {tmp_path}" in result.stderr
