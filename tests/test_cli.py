"""Help, what there is, and plans."""

import subprocess
import sys

import click
import pytest
from command_line import COMMANDS, as_json, dfkd, told
from small_tasks import contents

from dfkd.methods import METHODS
from dfkd.search_spaces.task import load_task

pytest_plugins = ["small_task_fixtures", "command_line"]
pytestmark = pytest.mark.usefixtures("dfkd_cache", "no_ray")


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


# A plan


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
