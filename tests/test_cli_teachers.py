"""`dfkd teacher`, and teachers by name."""

import io
import json
from pathlib import Path

import pytest
from command_line import as_json, complaint, dfkd, told
from rich.console import Console
from small_tasks import write_task

from dfkd.methods.settings import describe
from dfkd.orchestrator.progress import progress
from dfkd.search_spaces.task import TeacherSpec

pytest_plugins = ["small_task_fixtures", "command_line"]
pytestmark = pytest.mark.usefixtures("dfkd_cache", "no_ray")

NO_JURY = ("--select", "accuracy")  # which would make control pools for each new teacher


# Training a teacher


def train(task, folder, *options):
    """`dfkd teacher`, in few steps, to a file in `folder`."""
    return ["teacher", task, "--set", "epochs=2", "--to", folder / "mine.safetensors", *options]


def test_a_teacher_that_was_trained_can_be_distilled(stripes_file, tmp_path):
    shown = told(*train(stripes_file, tmp_path))
    file = tmp_path / "mine.safetensors"
    assert f"dfkd sweep {stripes_file} --teacher {file}" in shown
    told("distill", stripes_file, "--teacher", file, "--storage", tmp_path / "runs", *NO_JURY)


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
    options = [compared, "--storage", tmp_path / "runs", "--epochs", 2, *NO_JURY]
    told("distill", *options, "--name", "default")
    told("distill", *options, "--name", "other", "--teacher", "plain")
    facts = [
        json.loads((tmp_path / "runs" / name / "sweep.json").read_text())["definition"]
        for name in ("default", "other")
    ]
    assert facts[0]["teacher"] != facts[1]["teacher"]


def test_a_sweep_with_a_named_teacher_can_be_run_again_and_resumed(compared, tmp_path):
    storage = ["--storage", tmp_path / "runs"]
    again = ["distill", compared, "--teacher", "plain", "--name", "mine", *storage]
    again += ["--epochs", 2, *NO_JURY]
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
