import io
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator import catalog
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.watching import JsonLines, Silent
from dfkd.orchestrator.watching_runs import watch

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache")


class Events(JsonLines):
    """What happens, by name; once, at the first tick, it does something."""

    def __init__(self, act=lambda: None):
        super().__init__(io.StringIO())
        self.act = act
        self.ends = 0

    def tick(self):
        act, self.act = self.act, lambda: None
        act()

    def sweep_ended(self):
        self.ends += 1

    @property
    def seen(self):
        lines = map(json.loads, self.out.getvalue().splitlines())
        return [line["event"] for line in lines]


@pytest.fixture
def run(done, tmp_path):
    """A copy of a finished run, to be changed."""
    shutil.copytree(done.run.folder.local, tmp_path / "mine")
    return Run(Folder(str(tmp_path / "mine")))


@contextmanager
def going_on(run):
    """As if its one trial and the sweep were running; gives what ends both."""
    result = Path(run.folder.uri, "trials", "t000", "result.json")
    kept = result.read_bytes()
    result.unlink()
    run.note(state="running")

    def end():
        result.write_bytes(kept)
        run.note(state="finished")

    with run.lock():
        yield end


def test_a_finished_run_is_told_at_once(run):
    watcher = Events()
    assert watch(run, watcher) == "finished"
    assert (watcher.seen, watcher.ends) == (["sweep_started", "trial_known"], 1)


def test_what_happens_while_one_watches_is_told(run):
    watcher = Events()
    with going_on(run) as end:
        watcher.act = end
        assert watch(run, watcher, every=0.01) == "finished"
    assert watcher.seen[:3] == ["sweep_started", "trial_known", "trial_started"]
    assert watcher.seen[-1] == "trial_ended"


def test_a_trial_that_begins_while_one_watches_is_told_epoch_by_epoch(run, done):
    trial = Path(run.folder.uri, "trials", "t000")
    hidden = Path(run.folder.uri, "hidden")
    watcher = Events()
    with going_on(run) as end:
        trial.rename(hidden)

        def begin_and_end():
            hidden.rename(trial)
            end()

        watcher.act = begin_and_end
        watch(run, watcher, every=0.01)
    epochs = ["epoch"] * len(done.best.rows)
    assert watcher.seen == ["sweep_started", "trial_started", *epochs, "trial_ended"]


def test_a_driver_that_was_killed_ends_the_watch(run):
    run.note(state="running")  # and nobody holds the lock
    assert watch(run, Events()) == "interrupted"


def test_ctrl_c_leaves_and_ends_the_board(run):
    def leave():
        raise KeyboardInterrupt

    watcher = Events(leave)
    with going_on(run), pytest.raises(KeyboardInterrupt):
        watch(run, watcher, every=0.01)
    assert watcher.ends == 1


def test_trials_that_have_ended_are_not_read_again(run, monkeypatch):
    reads = []
    read = Folder.read

    def counted(self, name):
        reads.append(f"{self.uri}/{name}")
        return read(self, name)

    class Patient(Silent):
        ticks = 0

        def tick(self):
            self.ticks += 1
            if self.ticks == 20:
                raise KeyboardInterrupt

    run.note(state="running")
    monkeypatch.setattr(Folder, "read", counted)
    with run.lock(), pytest.raises(KeyboardInterrupt):
        watch(run, Patient(), every=0.001)
    assert sum("trials/t000" in name for name in reads) == 2  # its recipe and its result


def test_a_finished_run_tells_how_it_ended_as_its_sweep_did(done):
    told, here = catalog.outcome_of(done.run), catalog.outcome(done)
    assert {**told, "seconds": 0.0} == {**here, "seconds": 0.0}


def test_a_run_that_goes_on_has_no_outcome(run):
    run.note(state="running")
    assert catalog.outcome_of(run) is None


def test_a_run_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match="no sweep"):
        watch(Run(Folder(str(tmp_path / "nothing"))), Events())
