"""Mistakes: what, which value, what next; exit status 2."""

import pytest
import yaml
from command_line import complaint
from small_tasks import STRIPES, write_task

from dfkd.methods import METHODS

pytest_plugins = ["small_task_fixtures", "command_line"]
pytestmark = pytest.mark.usefixtures("dfkd_cache", "no_ray")


@pytest.fixture(scope="module")
def storage(stripes_storage, done):
    """A storage folder with the run `done`."""
    return stripes_storage


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


@pytest.mark.usefixtures("stripes_teacher")  # or that it is trained is said too
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
