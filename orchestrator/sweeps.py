"""A whole sweep: from a request to the exported best student."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dfkd.methods.errors import ConfigError, SweepFailed
from dfkd.orchestrator.clusters import ray_cluster, wait_for_room
from dfkd.orchestrator.export import export_best
from dfkd.orchestrator.requests import (
    REMEMBERED,
    SweepRequest,
    choose_run,
    request_of,
    resolve,
)
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.specs import CONTROL_ID, SweepSpec
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import correct
from dfkd.orchestrator.tuning import Ledger, run_trials
from dfkd.orchestrator.watching import Silent, SweepView, Watcher
from dfkd.search_spaces.data import load_data


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """How a sweep ended, and where things are."""

    run: Run
    records: list[TrialRecord]
    best: TrialRecord
    control: TrialRecord | None
    """The noise control, unless it was switched off."""
    exported: Folder
    teacher_accuracy: float | None
    seconds: float

    @property
    def failed(self) -> list[TrialRecord]:
        """Trials that ended with an error."""
        return [record for record in self.records if record.outcome == "failed"]


def sweep(task: str, *, watcher: Watcher | None = None, **options: Any) -> SweepResult:
    """Search TASK for the recipe whose student is best; `options` are SweepRequest's fields.

    Means what `dfkd sweep` means: an interrupted sweep of the same definition is resumed, Ray is
    started here unless `address` or $RAY_ADDRESS names a cluster or Ray is up in this process.
    Raises ConfigError (the request), SweepFailed (Ray, or every trial), KeyboardInterrupt (the state
    is saved).
    """
    request = SweepRequest(task=task, **options)
    watcher = watcher or Silent()
    spec = resolve(request, watcher.say)
    run = choose_run(request, spec.definition(), watcher.say)
    return _run(request, spec, run, watcher)


def resume(
    name: str, storage: str, *, watcher: Watcher | None = None, **changes: Any
) -> SweepResult:
    """Finish the sweep called `name`; `changes` may raise `trials` or alter resources."""
    run = Run(Folder.of(storage).child(name))
    request, spec = request_of(run, **changes)
    if problems := request.problems():
        raise ConfigError(*problems)
    return _run(request, spec, run, watcher or Silent())


def _run(request: SweepRequest, spec: SweepSpec, run: Run, watcher: Watcher) -> SweepResult:
    start = time.perf_counter()
    run.folder.require_writable()
    with run.lock():
        remembered = {key: getattr(request, key) for key in REMEMBERED}
        run.create(spec, request=remembered, command=shlex.join(sys.argv))
        ledger = Ledger.of(run)
        accuracy = teacher_accuracy(spec)
        view = SweepView(
            name=run.name,
            task=spec.task.name,
            score=spec.select,
            trials=request.trials,
            epochs=spec.epochs,
            teacher_accuracy=accuracy,
        )
        watcher.sweep_started(view, list(ledger.records.values()))
        with _ending(run, ledger, watcher):
            if _incomplete(ledger, spec, request.trials):
                with ray_cluster(request.address):
                    need = request.resources()
                    room = wait_for_room(need, watcher.say)
                    run_trials(
                        spec,
                        ledger,
                        watcher,
                        trials=request.trials,
                        need=need,
                        concurrent=min(room, request.concurrent or room),
                    )
            best = choose_best(ledger)
            exported = export_best(run, best, accuracy, ledger.records.get(CONTROL_ID))
            if request.export_dir is not None:
                exported.copy_to(Folder.of(request.export_dir))
        summary = {"trial": best.spec.id, "row": best.best, "recipe": dict(best.spec.recipe)}
        run.note(state="finished", best=summary, seconds=time.perf_counter() - start)
    return SweepResult(
        run=run,
        records=list(ledger.records.values()),
        best=best,
        control=ledger.records.get(CONTROL_ID),
        exported=exported,
        teacher_accuracy=accuracy,
        seconds=time.perf_counter() - start,
    )


@contextlib.contextmanager
def _ending(run: Run, ledger: Ledger, watcher: Watcher) -> Iterator[None]:
    """However the block ends, say so in the run folder and write the results there are."""
    try:
        yield
    except BaseException as error:
        run.write_results(list(ledger.records.values()))
        interrupted = isinstance(error, KeyboardInterrupt)
        run.note(state="interrupted" if interrupted else "failed", error=str(error))
        raise
    else:
        run.write_results(list(ledger.records.values()))
    finally:
        watcher.sweep_ended()


def _incomplete(ledger: Ledger, spec: SweepSpec, trials: int) -> bool:
    asked = trials + spec.control
    return len(ledger.ended()) < asked or len(ledger.ended()) < len(ledger.records)


def choose_best(ledger: Ledger) -> TrialRecord:
    """The trial with the highest score; the control is no candidate. Raises SweepFailed if none."""
    scored = [
        record
        for record in ledger.ended()
        if record.outcome != "failed" and record.spec.id != CONTROL_ID and record.best
    ]
    if not scored:
        reasons = sorted({record.reason for record in ledger.ended() if record.reason})
        raise SweepFailed("every trial failed: " + ("; ".join(reasons) or "no reason is known"))
    return max(scored, key=lambda record: record.best["score"] if record.best else 0.0)


def teacher_accuracy(spec: SweepSpec) -> float | None:
    """The teacher's accuracy on the evaluation data; None where there is none."""
    data = load_data(spec.task, "test", spec.data)
    if data is None:
        return None
    teacher = spec.teacher.build(spec.task)
    return float(correct(teacher.network, data)) / len(data)


def trial_facts(record: TrialRecord) -> dict[str, Any]:
    """A trial as JSON values, for reports."""
    return {**asdict(record.spec), "outcome": record.outcome, "best": record.best}
