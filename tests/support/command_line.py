"""The command line in tests: call it, read what it says; and no Ray behind it."""

from __future__ import annotations

import json

import pytest
import typer
from measurements import FakeMeter
from typer.testing import CliRunner

from dfkd.cli import app


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


@pytest.fixture(autouse=True)
def quick_meter(monkeypatch):
    """Plans measure nothing here; that they can is tested in tests/orchestrator."""
    monkeypatch.setattr("dfkd.orchestrator.planning.Meter", FakeMeter)
