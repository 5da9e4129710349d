"""What the driver does on events, without Ray: how often it writes, and what actors inherit."""

from types import SimpleNamespace

import pytest
from small_tasks import plan

from dfkd.orchestrator import quick_start, tuning
from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.room import Room
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.tuning import TICK, WRITING_SHARE, Bookkeeper, Ledger
from dfkd.orchestrator.watching import Silent

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache")


@pytest.fixture
def clock(monkeypatch):
    """Time as tests turn it: `clock[0] += seconds`."""
    now = [1000.0]
    read = SimpleNamespace(perf_counter=lambda: now[0], monotonic=lambda: now[0])
    monkeypatch.setattr(tuning, "time", read)
    return now


class Slow(Run):
    """A run folder whose results take a second to write."""

    clock: list[float]
    written: list[int]

    def write_results(self, records):
        self.clock[0] += 1.0
        self.written.append(len([record for record in records if record.outcome]))


@pytest.fixture
def ledger(tmp_path, clock, stripes_file):
    """A ledger of three trials that have run to their end."""
    sweep = plan(stripes_file)
    (method,) = sweep.methods
    Slow.clock, Slow.written = clock, []
    ledger = Ledger(Slow(Folder.of(str(tmp_path))))
    for number in range(3):
        spec = sweep.trial(f"t{number:03d}", method, {})
        rows = tuple({"epoch": epoch, "score": 0.5} for epoch in range(1, spec.epochs + 1))
        ledger.run.propose(spec)
        ledger.records[spec.id] = TrialRecord(spec=spec, rows=rows)
    return ledger


def test_results_are_written_again_only_when_that_is_a_small_share_of_the_time(ledger, clock):
    ledger.end("t000")
    clock[0] += 0.9 / WRITING_SHARE
    ledger.end("t001")
    assert Slow.written == [1]
    clock[0] += 0.2 / WRITING_SHARE
    ledger.end("t002")
    assert Slow.written == [1, 3]


def test_what_is_not_in_the_results_yet_is_in_the_trials_folder(ledger):
    for id in ledger.records:
        ledger.end(id)
    assert len(Slow.written) == 1
    assert {record.outcome for record in Run(ledger.run.folder).records()} == {"finished"}


def test_a_watcher_ticks_a_few_times_a_second_however_many_events_there_are(
    ledger, clock, monkeypatch
):
    monkeypatch.setattr(Room, "slots", lambda room: 1)
    ticks = []
    watcher = Silent()
    watcher.tick = lambda: ticks.append(clock[0])
    keeper = Bookkeeper(ledger, SimpleNamespace(ask_for_room=int), watcher, None, Room(Resources()))
    for _ in range(1000):
        keeper.on_step_end(0, [])
        clock[0] += 0.001
    assert len(ticks) == pytest.approx(1.0 / TICK, abs=1)


def test_trials_on_a_joined_cluster_are_given_credentials_and_nothing_else():
    cache = quick_start.class_cache
    before = cache.DEFAULT_ENV_VARS, cache.ENV_VARS_TO_PROPAGATE
    cache.DEFAULT_ENV_VARS, cache.ENV_VARS_TO_PROPAGATE = {"A": "1"}, {"AWS_SESSION_TOKEN", "B"}
    try:
        with quick_start.with_credentials_only():
            inside = cache.DEFAULT_ENV_VARS, cache.ENV_VARS_TO_PROPAGATE
        assert inside == ({}, {"AWS_SESSION_TOKEN"})
        assert cache.DEFAULT_ENV_VARS == {"A": "1"}
    finally:
        cache.DEFAULT_ENV_VARS, cache.ENV_VARS_TO_PROPAGATE = before
