"""Wherever a driver is killed between two changes of storage, another one can go on."""

import json

import pytest
from folders import Crash, InMemory

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator import distill, trials
from dfkd.orchestrator.export import METRICS, exported, publish
from dfkd.orchestrator.storage import Folder

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache")

QUICK = {"kd_steps": 2, "synthesis_steps": 2}
OLD = {"model.safetensors": b"old weights", "student.pt2": b"old program"}
NEW = {"model.safetensors": b"new weights", "student.pt2": b"new program"}


# The export


@pytest.fixture
def best():
    """A folder with an export."""
    folder = InMemory("best")
    publish(folder, OLD, {"epoch": 1})
    return folder


def readable(folder):
    """The files that are taken for those that the metrics describe."""
    found = {}
    for name in NEW:
        try:
            found[name] = exported(folder, name)
        except ConfigError:
            continue
    return found


def test_an_export_is_what_its_metrics_list(best):
    assert readable(best) == OLD
    assert best.read_json(METRICS)["epoch"] == 1


@pytest.mark.parametrize("after", range(4))
def test_an_export_that_is_cut_off_has_no_metrics_or_is_the_old_one(best, after):
    with best.failing(after, Crash()), pytest.raises(Crash):
        publish(best, NEW, {"epoch": 2})
    if best.read(METRICS) is not None:
        assert readable(best) == OLD
    else:
        assert after > 0
    publish(best, NEW, {"epoch": 2})
    assert readable(best) == NEW and best.read_json(METRICS)["epoch"] == 2


@pytest.mark.parametrize("after", range(4))
def test_a_copy_that_is_cut_off_has_no_metrics_or_is_the_old_one(best, after):
    new = InMemory("new")
    publish(new, NEW, {"epoch": 2})
    with best.failing(after, Crash()), pytest.raises(Crash):
        new.copy_to(best, seal=METRICS)
    assert best.read(METRICS) is None or readable(best) == OLD
    new.copy_to(best, seal=METRICS)
    assert readable(best) == NEW and best.read_json(METRICS)["epoch"] == 2


@pytest.mark.parametrize("data", [b"", b"old program, longer", b"OLD program"])
def test_a_file_that_the_metrics_do_not_describe_is_refused(best, data):
    best.write("student.pt2", data)
    with pytest.raises(ConfigError, match=r"student\.pt2 is not what its metrics\.json lists"):
        exported(best, "student.pt2")


def test_an_export_without_a_list_is_taken_as_it_is(best):
    """Earlier versions wrote none."""
    best.write(METRICS, json.dumps({"epoch": 1}).encode())
    best.write("student.pt2", b"whatever")
    assert exported(best, "student.pt2") == b"whatever"


# The sweep


class Countdown:
    """Counts the changes that Folder makes; the one after `left` others stops the process."""

    def __init__(self, patch, left=1_000_000):
        self.left, self.made = left, 0
        for name in ("write", "delete"):
            patch.setattr(Folder, name, self.counted(getattr(Folder, name)))

    def counted(self, change):
        def counting(folder, *what):
            if self.made == self.left:
                raise Crash
            self.made += 1
            change(folder, *what)

        return counting


def run(task, storage):
    """A trial that is saved after every epoch, exported and copied."""
    result = distill(
        task,
        name="mine",
        epochs=2,
        settings=QUICK,
        select="accuracy",
        storage=str(storage / "runs"),
        export_dir=str(storage / "copy"),
    )
    copy = Folder(str(storage / "copy"))
    assert exported(copy, "model.safetensors") == exported(result.exported, "model.safetensors")
    return exported(result.exported, "model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(stripes_file, tmp_path_factory, dfkd_cache):
    """The student's weights, and how many changes of storage it took."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "SAVING_SHARE", 1e9)
        counted = Countdown(patch)
        return run(stripes_file, tmp_path_factory.mktemp("whole")), counted.made


@pytest.mark.parametrize("share", [number / 8 for number in range(8)])
def test_wherever_a_sweep_is_killed_it_is_resumed_to_the_same_student(
    stripes_file, uninterrupted, tmp_path, monkeypatch, share
):
    monkeypatch.setattr(trials, "SAVING_SHARE", 1e9)
    weights, changes = uninterrupted
    with monkeypatch.context() as patch, pytest.raises(Crash):
        Countdown(patch, round(share * changes))
        run(stripes_file, tmp_path)
    assert run(stripes_file, tmp_path) == weights
