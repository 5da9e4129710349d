import io
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
import typer
import yaml
from kept_pools import keep_pool, shard
from measurements import FakeMeter
from PIL import Image
from rich.console import Console
from small_tasks import EPOCHS, STRIPES, contents, write_task
from typer.testing import CliRunner

from dfkd.cli import app
from dfkd.methods import METHODS
from dfkd.methods.memory import Shard
from dfkd.methods.settings import describe
from dfkd.orchestrator.progress import progress
from dfkd.orchestrator.storage import Folder
from dfkd.search_spaces.task import TeacherSpec, load_task

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache", "no_ray")


def commands(group=None, above=""):
    """Every command by name, those of a group as `pool ls`, and the groups themselves."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        yield above + name, command
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, f"{above}{name} ")


COMMANDS = dict(sorted(commands()))


@pytest.fixture(scope="module")
def no_ray():
    """Starting Ray is an error: nothing here may get that far."""
    import ray

    def init(*args, **kwargs):
        raise AssertionError("Ray was started")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", init)
        yield


def dfkd(*arguments):
    """Call dfkd; an error that nobody caught is raised."""
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def told(*arguments):
    """What a command that succeeds prints."""
    result = dfkd(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def complaint(*arguments):
    """What is said of the user's mistake; nothing else is printed."""
    result = dfkd(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr


def as_json(text):
    return [json.loads(line) for line in text.splitlines()]


# Help


def works_alone(*arguments):
    """Whether a command works where the heavy packages cannot be imported."""
    code = (
        "import sys\n"
        "for name in ('torch', 'ray', 'optuna', 'pyarrow', 'numpy'):\n"
        "    sys.modules[name] = None\n"
        "from dfkd.cli import app\n"
        f"app({list(arguments)!r})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["sweep", "--help"], ["pool", "ls", "--help"], ["tasks"], ["show", "digits"]],
    ids=" ".join,
)
def test_what_is_light_imports_nothing_heavy(arguments):
    assert works_alone(*arguments)


def test_the_list_of_methods_imports_nothing_heavy():
    assert works_alone("methods")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    assert f"dfkd {command}" in told(*command.split(), "--help").replace("root ", "dfkd ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is(command):
    options = [p for p in COMMANDS[command].params if isinstance(p, click.Option)]
    assert all(option.help for option in options)


def test_without_a_command_there_is_help():
    result = dfkd()
    assert "sweep" in result.stdout + result.stderr


def test_the_version_is_told():
    from importlib.metadata import version

    assert told("--version").strip() == version("dfkd")


# What there is


def test_tasks_are_listed():
    assert "digits" in told("tasks")


def test_label_texts_are_embedded_into_a_file_and_their_geometry_is_told(tmp_path):
    file = tmp_path / "texts.safetensors"
    assert "closest" in told("embed", "digits", "--to", file)
    assert file.is_file()


def test_methods_are_listed():
    assert all(name in told("methods") for name in METHODS)


def test_a_methods_settings_are_listed():
    shown = told("methods", "nayer")
    assert all(name in shown for name in ("bn_weight", "kd_steps", "paper"))


def test_the_yaml_that_is_shown_is_a_task(tmp_path):
    (tmp_path / "mine.yaml").write_text(told("show", "digits"))
    assert load_task(str(tmp_path / "mine.yaml")) == load_task("digits")


@pytest.mark.parametrize("command", [["tasks"], ["methods"], ["methods", "nayer"]])
def test_lists_can_be_had_as_json(command):
    assert all(entry["name"] for entry in as_json(told(*command, "--json")))


# Runs


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
    assert [line["event"] for line in json_lines] == [
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


# Pools


@pytest.fixture
def pools(tmp_path):
    """A storage folder with the sweeps `kept`, which has a pool of two files, and `plain`."""
    folder = Folder.of(str(tmp_path / "runs"))
    for name in ("kept", "plain"):
        folder.child(name).write_json("sweep.json", {})
    keep_pool(folder.child("kept", "pools"), shard(), shard(1, 4))
    return folder.uri


def test_a_pools_files_are_listed_with_their_classes(pools):
    shown = told("pool", "ls", "kept", "--storage", pools)
    assert "13 images in 2 files" in shown
    assert "top: 5, middle: 4, bottom/low: 4" in shown
    rows = [line.split("│")[2:7] for line in shown.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells == [["t000", "nayer", str(e), "1x6x6", n] for e, n in ((1, "9"), (2, "4"))]


def test_of_many_classes_the_extremes_are_told(tmp_path):
    classes = tuple(f"class{number}" for number in range(30))
    one = Shard(torch.zeros(33, 1, 2, 2, dtype=torch.uint8), torch.arange(33).clamp(max=29))
    keep_pool(Folder.of(str(tmp_path)), one, classes=classes)
    shown = told("pool", "ls", tmp_path)
    assert "each of 30 classes 1.1 on average, from 1 (class0) to 4 (class29)" in shown


def test_a_damaged_file_is_listed_with_the_others(pools):
    folder = Folder.of(pools).child("kept", "pools")
    folder.write("bad.arrow", b"bad")
    shown = told("pool", "ls", "kept", "--storage", pools)
    assert "bad.arrow is damaged" in shown
    assert "13 images in 3 files" in shown


def test_a_pools_files_can_be_had_as_json(pools):
    facts = as_json(told("pool", "ls", "kept", "--storage", pools, "--json"))
    assert [(f["images"], f["per_class"], f["about"]["epoch"]) for f in facts] == [
        (9, [3, 3, 3], 1),
        (4, [2, 1, 1], 2),
    ]


def test_a_pool_is_drawn(pools, tmp_path):
    to = tmp_path / "kept.png"
    shown = told("pool", "show", "kept", "--storage", pools, "--to", to, "--per-class", 3)
    assert str(to) in shown
    with Image.open(to) as image:
        assert image.height > 3 * 32


@pytest.mark.parametrize(
    ("options", "file"), [([], "bottom_low/000002.png"), (["--format", "webdataset"], "000000.tar")]
)
def test_a_pool_is_exported(pools, tmp_path, options, file):
    shown = told("pool", "export", "kept", "--storage", pools, "--to", tmp_path / "to", *options)
    assert f"wrote 13 images to {tmp_path / 'to'}" in shown
    assert "pool kept: 50 % exported" in shown
    assert (tmp_path / "to" / file).is_file()


@pytest.mark.parametrize("verb", ["ls", "show", "export --to new"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kpet", "no sweep 'kpet'. Did you mean 'kept'?"),
        ("plain", "sweep plain kept no pool; a sweep run with --keep-pool keeps one"),
    ],
)
def test_what_has_no_pool_is_shown(pools, monkeypatch, tmp_path, verb, name, words):
    monkeypatch.chdir(tmp_path)
    command, *options = verb.split()
    assert words in complaint("pool", command, name, *options, "--storage", pools)
    assert not (tmp_path / "new").exists()


def test_a_pool_is_not_exported_to_a_folder_with_something_in_it(pools, tmp_path):
    said = complaint("pool", "export", "kept", "--storage", pools, "--to", tmp_path)
    assert f"{tmp_path} is not empty; choose another folder with --to" in said


def test_every_command_for_pools_has_an_example():
    verbs = [name for name in COMMANDS if name.startswith("pool ")]
    assert verbs == ["pool export", "pool ls", "pool show"]
    assert all(f"example: dfkd {verb} mine" in told(*verb.split(), "--help") for verb in verbs)


# Training a teacher


def train(task, folder, *options):
    """`dfkd teacher`, in few steps, to a file in `folder`."""
    return ["teacher", task, "--set", "epochs=2", "--to", folder / "mine.safetensors", *options]


def test_a_teacher_that_was_trained_can_be_distilled(stripes_file, tmp_path):
    shown = told(*train(stripes_file, tmp_path))
    file = tmp_path / "mine.safetensors"
    assert f"dfkd sweep {stripes_file} --teacher {file}" in shown
    told("distill", stripes_file, "--teacher", file, "--storage", tmp_path / "runs")


def test_the_teachers_figures_are_shown(tmp_path):
    shown = told(*train("digits", tmp_path))
    figures = ("convnet-24-48-64", "41,074", "1,397 images", "±", "on 400 labeled test images")
    assert all(words in shown for words in figures)


def test_it_is_shown_that_a_teacher_was_measured_on_its_training_images(stripes_file, tmp_path):
    assert "the very 60 images" in told(*train(stripes_file, tmp_path))


def test_data_that_were_given_are_part_of_what_to_do_next(stripes_file, tmp_path):
    data = Path(stripes_file).with_name("stripes.npz")
    assert f"--data {data}" in told(*train(stripes_file, tmp_path, "--data", data))


def test_a_trained_teacher_can_be_had_as_json(stripes_file, tmp_path):
    (facts,) = as_json(told(*train(stripes_file, tmp_path, "--json")))
    assert Path(facts["file"]).is_file()
    assert 0 <= facts["accuracy"] <= 1


def test_progress_is_told_in_lines_where_there_is_no_terminal(stripes_file, tmp_path):
    arguments = train(stripes_file, tmp_path, "--set", "epochs=40")
    assert "teacher: 75 % trained" in told(*arguments)


def test_progress_is_drawn_on_a_terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress(console, "[digits] teacher", as_json=False) as on_progress:
        on_progress(20, 40)
        on_progress(40, 40)
    assert "[digits] teacher" in console.file.getvalue()
    assert "100%" in console.file.getvalue()


def test_the_help_of_training_a_teacher_names_what_can_be_set():
    shown = told("teacher", "--help")
    assert all(name in shown for name in describe(TeacherSpec) if name != "weights")
    assert "dfkd teacher digits" in shown


def test_a_wrong_setting_of_a_teacher_is_shown(stripes_file, tmp_path):
    said = complaint(*train(stripes_file, tmp_path, "--set", "shfit=2", "--set", "flip=maybe"))
    assert "Did you mean 'shift'?" in said
    assert "flip must be true or false, got 'maybe'" in said


def test_a_teachers_file_is_overwritten_on_request_only(stripes_file, tmp_path):
    told(*train(stripes_file, tmp_path))
    assert "--force" in complaint(*train(stripes_file, tmp_path))
    told(*train(stripes_file, tmp_path, "--force"))


def test_a_teacher_that_diverges_is_exit_status_1_with_advice(stripes_file, tmp_path):
    result = dfkd(*train(stripes_file, tmp_path, "--set", "learning_rate=1e30"))
    assert result.exit_code == 1
    assert "learning_rate below 1e+30" in result.stderr


def test_an_interrupted_training_is_exit_status_130(stripes_file, tmp_path, monkeypatch):
    from dfkd.orchestrator import teaching

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(teaching, "train_teacher", interrupt)
    result = dfkd(*train(stripes_file, tmp_path))
    assert result.exit_code == 130
    assert "nothing was written" in result.stderr


# A teacher by name


@pytest.fixture
def compared(tmp_path):
    """The path of the small task with a second teacher, `plain`."""
    return write_task(tmp_path / "task", {"teachers.plain": {"shift": 0, "epochs": 3}})


def test_a_sweep_can_have_another_teacher_of_the_task(compared, tmp_path):
    options = [compared, "--storage", tmp_path / "runs", "--epochs", 2]
    told("distill", *options, "--name", "default")
    told("distill", *options, "--name", "other", "--teacher", "plain")
    facts = [
        json.loads((tmp_path / "runs" / name / "sweep.json").read_text())["definition"]
        for name in ("default", "other")
    ]
    assert facts[0]["teacher"] != facts[1]["teacher"]


def test_a_sweep_with_a_named_teacher_can_be_run_again_and_resumed(compared, tmp_path):
    storage = ["--storage", tmp_path / "runs"]
    again = ["distill", compared, "--teacher", "plain", "--name", "mine", "--epochs", 2, *storage]
    assert "t000 nayer started" in told(*again)
    assert "t000 nayer started" not in told(*again)
    assert "best student (t000)" in told("resume", "mine", *storage)


def test_a_dry_run_trains_no_named_teacher(compared, tmp_path, monkeypatch):
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "cache"))
    told("sweep", compared, "--dry-run", "--teacher", "plain")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_an_unknown_name_of_a_teacher_gets_the_nearest_known_one(compared, more):
    said = complaint("sweep", compared, "--teacher", "plan", *more)
    assert "no stripes teacher 'plan'. Did you mean 'plain'?" in said
    assert "[NETWORK:]FILE" in said


# A plan


@pytest.fixture(autouse=True)
def quick_meter(monkeypatch):
    """Plans measure nothing here; that they can is tested in tests/orchestrator."""
    monkeypatch.setattr("dfkd.orchestrator.planning.Meter", FakeMeter)


def test_a_dry_run_runs_nothing(stripes_file, tmp_path):
    told("sweep", stripes_file, "--dry-run", "--storage", tmp_path / "runs")
    assert not contents(tmp_path)


def test_a_dry_run_shows_what_is_fixed_and_what_is_searched(stripes_file):
    shown = told("sweep", stripes_file, "--dry-run", "--trials", 5, "--set", "bn_weight=0.7")
    lines = {line.split("│")[1].strip(): line for line in shown.splitlines() if "│" in line}
    assert "5 trials" in shown
    assert "0.7" in lines["bn_weight"]
    assert "searched: 1.0, 2.0, 4.0" in lines["temperature"]


def test_a_dry_run_can_be_had_as_json(stripes_file):
    (plan,) = as_json(told("sweep", stripes_file, "--dry-run", "--json", "--trials", 3))
    assert plan["event"] == "plan" and plan["trials"] == 3
    assert plan["plan"]["methods"][0]["host"]["total"] > 0


def test_a_dry_run_says_what_trials_take_and_where_they_leave_it(stripes_file, tmp_path):
    shown = told("sweep", stripes_file, "--dry-run", "--storage", tmp_path / "runs", "--name", "x")
    for words in ("memory of a trial's worker", "CPU-hours", str(tmp_path / "runs" / "x")):
        assert words in shown


def test_a_dry_run_trains_no_teacher(stripes_file, tmp_path, monkeypatch):
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "cache"))
    told("sweep", stripes_file, "--dry-run")
    assert not (tmp_path / "cache").exists()


# Mistakes: what, which value, what next; exit status 2


@pytest.mark.parametrize("command", ["sweep", "distill", "show"])
def test_an_unknown_task_gets_the_nearest_known_one(command):
    said = complaint(command, "digit")
    assert "no task 'digit'. Did you mean 'digits'?" in said
    assert ".yaml" in said


@pytest.mark.parametrize("command", ["sweep", "distill"])
def test_an_unknown_method_gets_the_nearest_known_one(command, stripes_file):
    said = complaint(command, stripes_file, "--method", "nayr")
    known = ", ".join(sorted(METHODS))
    assert f"no method 'nayr'. Did you mean 'nayer'? Known: {known}" in said


def test_the_settings_of_an_unknown_method_are_the_users_mistake():
    assert "Did you mean 'nayer'" in complaint("methods", "nayr")


@pytest.mark.parametrize("command", ["sweep", "distill"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("kd_stepps=3", ["'kd_stepps'", "Did you mean 'kd_steps'?"]),
        ("kd_steps=0", ["kd_steps must be at least 1", "'0'"]),
        ("kd_steps=many", ["kd_steps must be a number", "'many'"]),
        ("novalue", ["no setting", "'novalue'"]),
        ("kd_steps", ["kd_steps needs a value", "kd_steps=VALUE"]),
        ("=3", ["no setting", "''"]),
        ("preset=papr", ["'papr'", "Did you mean 'paper'?"]),
    ],
)
def test_a_wrong_setting_is_shown(command, stripes_file, setting, words):
    said = complaint(command, stripes_file, "--set", setting)
    assert all(word in said for word in words)


def test_a_setting_may_hold_an_equals_sign(stripes_file):
    assert "'a=b'" in complaint("distill", stripes_file, "--set", "bn_reduction=a=b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trials", 0], ["trials must be at least 1", "0"]),
        (["--epochs", 0], ["epochs must be at least 1", "0"]),
        (["--workers", 0], ["workers must be at least 1", "0"]),
        (["--concurrent", 0], ["concurrent must be at least 1", "0"]),
        (["--cpus-per-worker", 0], ["cpus_per_worker must be above 0", "0"]),
        (["--gpus-per-worker", -1], ["gpus_per_worker must be at least 0", "-1"]),
        (["--scheduler", "ash"], ["'ash'", "Did you mean 'asha'?"]),
        (["--search", "tpe"], ["'tpe'", "Known: optuna, random"]),
        (["--select", "accurcy"], ["'accurcy'", "Did you mean 'accuracy'?"]),
        (["--student", "resnet"], ["'resnet'", "convnet-W1"]),
        (["--teacher", "none.pt"], ["none.pt does not exist", "torch.save"]),
        (["--data", "none.npz"], ["none.npz does not exist", "an .npz with images"]),
        (["--name", "a/b"], ["'a/b'", "without slashes"]),
        (["--seed", "one"], ["--seed", "integer"]),
        (["--trails", 3], ["--trails"]),
    ],
)
def test_a_wrong_option_is_shown(stripes_file, options, words):
    said = complaint("sweep", stripes_file, *options)
    assert all(word in said for word in words)


def test_a_teacher_that_cannot_be_read_is_shown(stripes_file, tmp_path):
    (tmp_path / "teacher.safetensors").write_bytes(b"weights")
    said = complaint("sweep", stripes_file, "--teacher", tmp_path / "teacher.safetensors")
    assert "teacher.safetensors cannot be read" in said


def test_all_mistakes_are_told_at_once_one_per_line(stripes_file):
    arguments = ["--trials", 0, "--set", "kd_steps=0", "--set", "temprature=2", "--student", "x"]
    said = complaint("sweep", stripes_file, *arguments)
    assert [line.startswith("error: ") for line in said.splitlines()] == [True] * 4


def test_a_setting_without_a_value_hides_no_other_mistake(stripes_file):
    said = complaint("sweep", stripes_file, "--set", "novalue", "--trials", 0)
    assert len(said.splitlines()) == 2


def test_all_mistakes_in_a_task_file_are_told_at_once(tmp_path):
    task = write_task(tmp_path, {"epochs": 0, "image.width": 0})
    assert len(complaint("sweep", task).splitlines()) == 2


@pytest.mark.parametrize("command", ["sweep", "distill"])
def test_storage_that_cannot_be_written_is_shown(command, stripes_file, tmp_path):
    (tmp_path / "file").touch()
    blocked = tmp_path / "file" / "runs"
    said = complaint(command, stripes_file, "--storage", blocked, "--name", "mine")
    assert str(blocked) in said
    assert "choose another with --storage" in said


@pytest.mark.parametrize("command", ["runs", "status", "resume x", "export x --to y"])
def test_storage_that_is_a_file_is_shown(command, tmp_path):
    (tmp_path / "file").touch()
    assert "file" in complaint(*command.split(), "--storage", tmp_path / "file")


@pytest.mark.parametrize("command", ["sweep", "distill"])
def test_a_name_that_is_taken_is_shown(command, storage, stripes_file):
    said = complaint(command, stripes_file, "--storage", storage, "--name", "done", "--seed", 1)
    assert "the name done is taken" in said
    assert "choose another --name" in said


@pytest.mark.parametrize("command", ["status", "export --to x", "resume"])
def test_an_unknown_run_gets_the_nearest_known_one(command, storage):
    verb, *options = command.split()
    assert "Did you mean 'done'?" in complaint(verb, "dome", *options, "--storage", storage)


def test_resuming_an_unknown_run_says_how_to_list_them(storage):
    assert "dfkd runs" in complaint("resume", "other", "--storage", storage)


def test_a_status_without_runs_says_how_to_begin(tmp_path):
    assert "dfkd sweep digits" in complaint("status", "--storage", tmp_path)


def test_an_unknown_student_is_shown_with_where_it_was_looked_for(storage):
    said = complaint("evaluate", "dome", "--storage", storage)
    assert "'dome'" in said
    assert storage in said


def test_an_unknown_format_gets_the_nearest_known_one(storage, tmp_path):
    arguments = ["--storage", storage, "--to", tmp_path / "to", "--format", "pt22"]
    assert "Did you mean 'pt2'?" in complaint("export", "done", *arguments)


def test_a_folder_to_export_to_that_cannot_be_written_is_shown(storage, tmp_path):
    (tmp_path / "file").touch()
    blocked = tmp_path / "file" / "to"
    assert str(blocked) in complaint("export", "done", "--storage", storage, "--to", blocked)


@pytest.mark.parametrize("arguments", [["sweep"], ["distil", "digits"], ["status", "a", "b"]])
def test_a_command_that_makes_no_sense_is_the_users_mistake(arguments):
    assert "Usage:" in complaint(*arguments)


def test_problems_are_shown_as_they_are(tmp_path):
    """Rich takes what stands in brackets for markup."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**STRIPES, "epochs": "[bold]"}))
    assert "'[bold]'" in complaint("distill", tmp_path / "mine.yaml")
