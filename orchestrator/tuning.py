"""The sweep inside Ray Tune: what it is asked to run, and what is made of what it reports.

The truth about a trial lies in its folder; Tune's own snapshots are not used. That is what makes a
killed driver harmless: the next one reads the folders, tells search and scheduler what happened,
and has Tune run what is left.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from dfkd.methods.errors import SweepFailed
from dfkd.orchestrator.actors import Registry, beside_me
from dfkd.orchestrator.clusters import JOIN_PATIENCE, Resources
from dfkd.orchestrator.metrics import Metrics, dashboard
from dfkd.orchestrator.pool_service import Address
from dfkd.orchestrator.quick_start import with_credentials_only
from dfkd.orchestrator.reporting import FAILED, Constants
from dfkd.orchestrator.requests import SweepRequest
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.schedulers import make_scheduler
from dfkd.orchestrator.search import Finished, RecipeSearch
from dfkd.orchestrator.specs import SweepSpec, TrialSpec
from dfkd.orchestrator.tracking import trackers
from dfkd.orchestrator.train_driver import Janitor, TrialDriver
from dfkd.orchestrator.trial_actor import TrialActor
from dfkd.orchestrator.watching import Watcher

TRIAL_RETRIES = 3  # after the loss of an actor or a node; each resumes from the checkpoint
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
    """Hands Tune the trials to run: interrupted ones, then the control, then new proposals."""

    def __init__(self, sweep: SweepSpec, ledger: Ledger, trials: int, constants: Constants) -> None:
        super().__init__(metric="score", mode="max")
        self._ledger = ledger
        self._constants = constants
        ended = [r for r in ledger.ended() if r.best is not None and r.outcome != "failed"]
        self.recipes = RecipeSearch(sweep, [Finished(r.spec, r.best["score"]) for r in ended])  # type: ignore[index]
        known = ledger.records
        self._waiting = [record.spec for record in known.values() if not record.outcome]
        control = sweep.control_trial()
        self._control = [control] if sweep.control and control.id not in known else []
        proposed = [id for id in known if id != control.id]
        self._numbers = list(range(len(proposed), trials))

    def left(self) -> int:
        """How many trials there are to run."""
        return len(self._waiting) + len(self._control) + len(self._numbers)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._waiting:
            spec = self._waiting.pop(0)
        elif self._control or self._numbers:
            spec = (
                self._control.pop() if self._control else self.recipes.propose(self._numbers.pop(0))
            )
            self._ledger.add(spec)
        else:
            return str(Searcher.FINISHED)
        return {"id": spec.id, **self._constants}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        return  # the bookkeeper tells `recipes`, with the best epoch's score

    def save(self, checkpoint_path: str) -> None:
        return

    def restore(self, checkpoint_path: str) -> None:
        return

    def __reduce__(self) -> tuple[Any, ...]:
        return Searcher, ()  # into Tune's snapshot, which nobody reads


class Bookkeeper(tune.Callback):
    """Turns what Tune reports into the ledger's entries and the watcher's events."""

    def __init__(
        self,
        ledger: Ledger,
        recipes: RecipeSearch,
        watcher: Watcher,
        janitor: Janitor | None,
        need: Resources,
    ) -> None:
        self._ledger = ledger
        self._recipes = recipes
        self._watcher = watcher
        self._janitor = janitor
        self._need = need
        self._reasons: dict[str, str] = {}
        self._idle_since: float | None = None
        self._told = False
        self._ticked = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()  # into Tune's snapshot, which nobody reads

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._watcher.trial_started(self._ledger.records[trial.config["id"]].spec)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        id = trial.config["id"]
        if FAILED in result:
            self._reasons[id] = result[FAILED]
        elif "row" in result:
            self._ledger.row(id, result["row"])
            self._watcher.epoch_ended(self._ledger.records[id].spec, result["row"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial.config["id"], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_error()
        told = str(error).strip().splitlines()[-1] if error else "its worker was lost"
        self._lost(trial.config["id"])
        self._end(trial.config["id"], f"given up after {TRIAL_RETRIES + 1} attempts: {told}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._watcher.say(f"{trial.config['id']} lost its worker and starts again where it was")
        self._lost(trial.config["id"])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._ticked < TICK:
            return
        self._watcher.tick()
        if self._janitor is not None:
            self._janitor.sweep()
        self._look_for_a_stall(trials)
        self._ticked = time.monotonic()

    def _end(self, id: str, reason: str | None) -> None:
        record = self._ledger.end(id, self._reasons.get(id) or reason)
        failed = record.outcome == "failed" or record.best is None
        self._recipes.learn(record.spec, None if failed else record.best["score"])  # type: ignore[index]
        self._watcher.trial_ended(record)

    def _lost(self, id: str) -> None:
        if self._janitor is not None:
            self._janitor.lost(id)

    def _look_for_a_stall(self, trials: Sequence[Any]) -> None:
        states = {trial.status for trial in trials}
        if "RUNNING" in states or "PENDING" not in states:
            self._idle_since, self._told = None, False
            return
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        idle = now - self._idle_since
        if idle > STALL_NOTICE and not self._told:
            self._told = True
            self._watcher.say(f"nothing runs: a trial needs {self._need} and the cluster is full")
        if idle > JOIN_PATIENCE:
            raise SweepFailed(
                f"no trial could start for {JOIN_PATIENCE:.0f} s: each needs {self._need}; "
                "free resources or ask for less, then run the same command to resume"
            )


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
    concurrent: int,
    pools: Address | None,
) -> None:
    """Run what is left of a sweep on the Ray that is up, `concurrent` trials at a time.

    `pools` is where they find the keepers of what they share, if they share anything.
    """
    need = request.resources()
    many = need.workers > 1
    registry = beside_me(Registry).remote() if many else None
    constants = {
        "run": ledger.run.folder.uri,
        "workers": need.workers,
        "cpus": need.cpus_per_worker,
        "gpus": need.gpus_per_worker,
        "pools": pools,
        "registry": registry,
        "scratch": ledger.run.folder.child(".train").uri,
    }
    search = TuneSearch(sweep, ledger, request.trials, constants)
    if not search.left():
        return
    past = {id: record.rows for id, record in ledger.records.items()}
    going_on = [id for id, record in ledger.records.items() if not record.outcome]
    trainable = TrialDriver if many else TrialActor
    janitor = Janitor(registry) if many else None
    with tempfile.TemporaryDirectory(prefix="dfkd-tune-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=search.left(),
                max_concurrent_trials=concurrent,
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
                    Bookkeeper(ledger, search.recipes, watcher, janitor, need),
                    *onlookers(sweep, ledger, watcher, request.track, scratch),
                ],
            ),
        )
        with nullcontext() if many else with_credentials_only():
            tuner.fit()
    if many:
        ledger.run.folder.child(".train").remove()
