"""The sweep inside Ray Tune: what it is asked to run, and what is made of what it reports.

The truth about a trial lies in its folder; Tune's own snapshots are not used. That is what makes a
killed driver harmless: the next one reads the folders, tells search and scheduler what happened,
and has Tune run what is left.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from dfkd.methods.errors import SweepFailed
from dfkd.orchestrator.metrics import Metrics, dashboard
from dfkd.orchestrator.pool_service import Address
from dfkd.orchestrator.quick_start import with_credentials_only
from dfkd.orchestrator.reporting import FAILED, Constants
from dfkd.orchestrator.requests import SweepRequest
from dfkd.orchestrator.room import JOIN_PATIENCE, Room
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.schedulers import make_scheduler
from dfkd.orchestrator.search import Finished, RecipeSearch
from dfkd.orchestrator.specs import SweepSpec, TrialSpec
from dfkd.orchestrator.tracking import trackers
from dfkd.orchestrator.train_driver import Janitor, TrialDriver
from dfkd.orchestrator.trial_actor import TrialActor
from dfkd.orchestrator.watching import Watcher

TRIAL_RETRIES = 3  # without any progress; each resumes from the checkpoint
WRITING_SHARE = 0.05  # results.parquet, of all rows each time, may take this share of the time
TICK = 0.2  # seconds between a watcher's ticks: Tune's steps are one per event, hundreds a second
STALL_NOTICE = 30.0  # seconds in which nothing runs before it is said


@dataclass(slots=True)
class Ledger:
    """What is known of every trial, by id; written to the run folder as trials end."""

    run: Run
    records: dict[str, TrialRecord] = field(default_factory=dict)
    _wrote_at: float = 0.0
    _writing_seconds: float = 0.0

    @classmethod
    def of(cls, run: Run) -> Ledger:
        """All that the run folder knows."""
        return cls(run, {record.spec.id: record for record in run.records()})

    def add(self, spec: TrialSpec) -> None:
        """A trial that was just proposed."""
        self.run.propose(spec)
        self.records[spec.id] = TrialRecord(spec=spec)

    def row(self, id: str, row: dict[str, Any]) -> None:
        """An epoch's row; one measured again after a resume takes the place of the first."""
        record = self.records[id]
        kept = record.rows
        if kept and kept[-1]["epoch"] >= row["epoch"]:
            kept = tuple(known for known in kept if known["epoch"] < row["epoch"])
        self.records[id] = replace(record, rows=(*kept, row))

    def end(self, id: str, reason: str | None = None) -> TrialRecord:
        """A trial ended: failed with a reason, or finished, or stopped early.

        Rows that were saved but whose report was lost with a worker come from the trial's folder.
        """
        record = self.records[id]
        rows = {row["epoch"]: row for row in (*self.run.history(id), *record.rows)}
        record = replace(record, rows=tuple(rows[epoch] for epoch in sorted(rows)))
        complete = bool(record.rows) and record.rows[-1]["epoch"] >= record.spec.epochs
        outcome = "failed" if reason else "finished" if complete else "stopped"
        record = replace(record, outcome=outcome, reason=reason or "")  # type: ignore[arg-type]
        self.records[id] = record
        self.run.end_trial(record)
        self._write_results()
        return record

    def _write_results(self) -> None:
        """Write all rows there are, unless that is a matter of seconds and was done just now.

        A trial's own folder holds its rows in any case, and the sweep's end writes all of them.
        """
        start = time.perf_counter()
        if (start - self._wrote_at) * WRITING_SHARE >= self._writing_seconds:
            self.run.write_results(list(self.records.values()))
            self._wrote_at = time.perf_counter()
            self._writing_seconds = self._wrote_at - start

    def ended(self) -> list[TrialRecord]:
        """Trials with nothing left to do."""
        return [record for record in self.records.values() if record.outcome]


class TuneSearch(Searcher):
    """Hands Tune the trials to run: interrupted ones, then the control, then new proposals.

    No more at once than there is room for, which may change from one moment to the next.
    """

    def __init__(
        self, sweep: SweepSpec, ledger: Ledger, trials: int, constants: Constants, room: Room
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._ledger = ledger
        self._constants = constants
        self._room = room
        self._running: set[str] = set()  # by Tune's names
        ended = [r for r in ledger.ended() if r.best is not None and r.outcome != "failed"]
        self.recipes = RecipeSearch(sweep, [Finished(r.spec, r.best["score"]) for r in ended])  # type: ignore[index]
        known = ledger.records
        self._waiting = [record.spec for record in known.values() if not record.outcome]
        control = sweep.control_trial()
        self._control = [control] if sweep.control and control.id not in known else []
        proposed = [id for id in known if id != control.id]
        self._numbers = list(range(len(proposed), trials))

    def left(self) -> int:
        """How many trials there are to begin."""
        return len(self._waiting) + len(self._control) + len(self._numbers)

    def again(self, spec: TrialSpec) -> None:
        """Hand out once more a trial that Tune gave up."""
        self._waiting.insert(0, spec)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial's configuration, or None for as long as there is no room.

        Tune itself would let no more than one trial wait for its actor to start, or as many as its
        own fixed bound says; so it gets none (TUNE_MAX_PENDING_TRIALS_PG), and the bound is here.
        """
        if not self.left():
            return None if self._running else str(Searcher.FINISHED)  # one may come again
        if self._running and len(self._running) >= self._room.slots():
            return None
        self._room.ask_for(0)  # what was asked for must not be in this trial's way
        self._running.add(trial_id)
        return {"id": self._next().id, **self._constants}

    def ask_for_room(self) -> None:
        """Have nodes added for the trials that wait."""
        most = self._room.most or len(self._running) + self.left()
        self._room.ask_for(min(self.left(), most - len(self._running)))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._running.discard(trial_id)  # the bookkeeper tells `recipes` the best epoch's score

    def save(self, checkpoint_path: str) -> None:
        return

    def restore(self, checkpoint_path: str) -> None:
        return

    def _next(self) -> TrialSpec:
        if self._waiting:
            return self._waiting.pop(0)
        spec = self._control.pop() if self._control else self.recipes.propose(self._numbers.pop(0))
        self._ledger.add(spec)
        return spec

    def __reduce__(self) -> tuple[Any, ...]:
        return Searcher, ()  # into Tune's snapshot, which nobody reads


class Bookkeeper(tune.Callback):
    """Turns what Tune reports into the ledger's entries and the watcher's events."""

    def __init__(
        self,
        ledger: Ledger,
        search: TuneSearch,
        watcher: Watcher,
        janitor: Janitor | None,
        room: Room,
    ) -> None:
        self._ledger = ledger
        self._search = search
        self._watcher = watcher
        self._janitor = janitor
        self._room = room
        self._slots = room.slots()
        self._reasons: dict[str, str] = {}
        self._losses: Counter[str] = Counter()  # by trial, since its last progress
        self._idle_since: float | None = None
        self._told = False
        self._ticked = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()  # into Tune's snapshot, which nobody reads

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        id = trial.config["id"]
        if self._janitor is not None:
            self._janitor.started(id, trial.temporary_state.ray_actor._actor_id.hex())
        self._watcher.trial_started(self._ledger.records[id].spec)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        id = trial.config["id"]
        if FAILED in result:
            self._reasons[id] = result[FAILED]
        elif "row" in result:
            known = self._ledger.records[id]
            if not known.rows or result["epoch"] > known.rows[-1]["epoch"]:
                self._losses[id] = 0
                trial.max_failures = trial.run_metadata.num_failures + TRIAL_RETRIES
            self._ledger.row(id, result["row"])
            self._watcher.epoch_ended(known.spec, result["row"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._janitor is not None:
            self._janitor.ended(trial.config["id"])
        self._end(trial.config["id"], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune gave a trial up: after too many losses, or since it counts some of them twice."""
        id = trial.config["id"]
        if self._losses[id] < TRIAL_RETRIES:
            self._lost(id)
            self._search.again(self._ledger.records[id].spec)
            return
        error = trial.get_error()
        told = str(error).strip().splitlines()[-1] if error else "its worker was lost"
        self._lost(id)
        self._end(id, f"given up after {TRIAL_RETRIES + 1} attempts: {told}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._lost(trial.config["id"])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._ticked < TICK:
            return
        self._watcher.tick()
        self._ledger.run.require_held()
        if self._janitor is not None:
            self._janitor.sweep()
        if (slots := self._room.slots()) != self._slots:
            self._slots = slots
            self._watcher.say(f"the cluster has changed: room for {slots} trials at a time")
        if not self._look_for_a_stall(trials):
            self._search.ask_for_room()
        self._ticked = time.monotonic()

    def _end(self, id: str, reason: str | None) -> None:
        record = self._ledger.end(id, self._reasons.get(id) or reason)
        failed = record.outcome == "failed" or record.best is None
        score = None if failed or record.best is None else record.best["score"]
        self._search.recipes.learn(record.spec, score)
        self._watcher.trial_ended(record)

    def _lost(self, id: str) -> None:
        self._losses[id] += 1
        self._watcher.say(f"{id} lost its worker and starts again where it was")
        if self._janitor is not None:
            self._janitor.lost(id)

    def _look_for_a_stall(self, trials: Sequence[Any]) -> bool:
        """Whether a trial waits for room; raises SweepFailed if none gets any for too long.

        Drivers of several workers are running for Tune while they wait for room; but where no trial
        fits, none runs.
        """
        states = {trial.status for trial in trials}
        waits = "PENDING" in states
        if self._slots and ("RUNNING" in states or not waits):
            self._idle_since, self._told = None, False
            return waits
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        idle = now - self._idle_since
        if idle > STALL_NOTICE and not self._told:
            self._told = True
            self._watcher.say(
                f"nothing runs: a trial needs {self._room.need}, the cluster has {self._room}, and "
                "none of it is free"
            )
        if idle > JOIN_PATIENCE:
            raise SweepFailed(
                f"no trial could start for {JOIN_PATIENCE:.0f} s: each needs {self._room.need}; "
                "free resources or ask for less, then run the same command to resume"
            )
        return True


def onlookers(
    sweep: SweepSpec, ledger: Ledger, watcher: Watcher, track: Sequence[str], scratch: str
) -> list[tune.Callback]:
    """Who else is told of trials and rows: Ray's metrics where they can be seen, and `--track`."""
    seen: list[tune.Callback] = [*trackers(track, ledger.run, ledger.records, scratch, watcher.say)]
    if dashboard():
        shape = sweep.task.shape
        seen.append(Metrics(ledger.run.name, shape.channels * shape.height * shape.width))
    return seen


def run_trials(
    sweep: SweepSpec,
    ledger: Ledger,
    watcher: Watcher,
    request: SweepRequest,
    *,
    room: Room,
    pools: Address | None,
) -> None:
    """Run what is left of a sweep on the Ray that is up, as many trials at a time as have room.

    `pools` is where they find the keepers of what they share, if they share anything.
    """
    need = room.need
    many = need.workers > 1
    constants = {
        "run": ledger.run.ticket,
        "workers": need.workers,
        "cpus": need.cpus_per_worker,
        "gpus": need.gpus_per_worker,
        "pools": pools,
        "scratch": ledger.run.folder.child(".train").uri,
    }
    search = TuneSearch(sweep, ledger, request.trials, constants, room)
    if not search.left():
        return
    past = {id: record.rows for id, record in ledger.records.items()}
    going_on = [id for id, record in ledger.records.items() if not record.outcome]
    trainable = TrialDriver if many else TrialActor
    janitor = Janitor() if many else None
    with tempfile.TemporaryDirectory(prefix="dfkd-tune-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=-1,  # `search` ends it
                reuse_actors=not many,  # a driver whose trainer was aborted cannot be
                search_alg=search,
                scheduler=make_scheduler(sweep.scheduler, sweep.epochs, past, going_on),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
                callbacks=[
                    Bookkeeper(ledger, search, watcher, janitor, room),
                    *onlookers(sweep, ledger, watcher, request.track, scratch),
                ],
            ),
        )
        try:
            with nullcontext() if many else with_credentials_only():
                tuner.fit()
        finally:
            room.ask_for(0)
            if janitor is not None:
                janitor.finish()
    if many:
        ledger.run.folder.child(".train").remove()
