"""A whole sweep: from a request to the exported best student."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from dfkd.methods.errors import ConfigError, SweepFailed, TrialFailed
from dfkd.methods.jury import Verdict
from dfkd.orchestrator.clusters import ray_cluster
from dfkd.orchestrator.controls import equip
from dfkd.orchestrator.export import BEST, METRICS, export_best
from dfkd.orchestrator.links import connect
from dfkd.orchestrator.metrics import dashboard
from dfkd.orchestrator.places import Here, OnWorkers, Place
from dfkd.orchestrator.pool_service import PoolPlan, pool_service, told
from dfkd.orchestrator.requests import (
    SweepRequest,
    choose_run,
    plan_sweep,
    request_of,
    with_its_teacher,
)
from dfkd.orchestrator.room import Room
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.scores import SCORES
from dfkd.orchestrator.shelves import can_share
from dfkd.orchestrator.specs import CONTROL_ID, MethodPlan, SweepSpec
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import correct, run_trial
from dfkd.orchestrator.tuning import Ledger, run_trials
from dfkd.orchestrator.verdicts import give_verdicts
from dfkd.orchestrator.watching import Silent, SweepView, Watcher
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.teacher_checks import doubt


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
    select: str
    """What chose it."""
    verdicts: Mapping[str, Verdict]
    """The jury's, by trial; empty if real labels chose."""
    seconds: float

    @property
    def failed(self) -> list[TrialRecord]:
        """Trials that ended with an error."""
        return [record for record in self.records if record.outcome == "failed"]


class SweepInterrupted(KeyboardInterrupt):
    """Ctrl-C or a request to end; the state is saved, and `resume` continues."""

    def __init__(self, run: Run) -> None:
        storage = run.folder.parent.uri
        super().__init__(
            "interrupted; the state is saved, continue with: "
            f"dfkd resume {run.name} --storage {shlex.quote(storage)}"
        )
        self.run = run


Runner = Callable[[SweepRequest, SweepSpec, Ledger, Watcher], None]
"""Runs what is left of a sweep and enters it into the ledger."""


def sweep(task: str, *, watcher: Watcher | None = None, **options: Any) -> SweepResult:
    """Search TASK for the recipe whose student is best; `options` are SweepRequest's fields.

    Means what `dfkd sweep` means: an interrupted sweep of the same definition is resumed; Ray is
    started here unless `address` or $RAY_ADDRESS names a cluster or Ray is up in this process.
    Raises ConfigError (the request), SweepFailed (Ray, or every trial) and SweepInterrupted.
    """
    watcher = watcher or Silent()
    request = SweepRequest(task=task, **options)
    spec = _resolve(request, watcher.say)
    return _run(request, spec, choose_run(request, spec.definition(), watcher.say), watcher, on_ray)


def resume(
    name: str, storage: str, *, watcher: Watcher | None = None, **changes: Any
) -> SweepResult:
    """Finish the sweep called `name`; `changes` may raise `trials` or alter resources."""
    run = Run(Folder.of(storage).child(name))
    request, spec = request_of(run, **changes)
    if problems := request.problems():
        raise ConfigError(*problems)
    runner = in_process if spec.search == "none" else on_ray
    return _run(request, spec, run, watcher or Silent(), runner)


def distill(task: str, *, watcher: Watcher | None = None, **options: Any) -> SweepResult:
    """Run one recipe of one method in this process, without Ray: the task's own, as set.

    Leaves the same run folder as a sweep of one trial; `options` and errors are those of `sweep`.
    """
    watcher = watcher or Silent()
    request = SweepRequest(task=task, **{**options, "trials": 1, "control": False})
    if request.track:
        raise ConfigError("distill is not tracked; use sweep with one trial, or leave track out")
    if len(request.methods) != 1:
        raise ConfigError(f"distill runs one method, got {', '.join(request.methods) or 'none'}")
    spec = _resolve(request, watcher.say)
    fixed = {name: MethodPlan(plan.recipe, {}) for name, plan in spec.methods.items()}
    spec = replace(spec, methods=fixed, scheduler="fifo", search="none")
    run = choose_run(request, spec.definition(), watcher.say)
    return _run(request, spec, run, watcher, in_process)


def _resolve(request: SweepRequest, say: Callable[[str], None]) -> SweepSpec:
    """As `resolve`, but no teacher is trained for a sweep that could not be written."""
    planned = plan_sweep(request)
    Folder.of(request.storage).require_writable()
    if request.export_dir is not None:
        Folder.of(request.export_dir).require_writable("--export-dir")
    return with_its_teacher(planned, request, say)


def on_ray(request: SweepRequest, spec: SweepSpec, ledger: Ledger, watcher: Watcher) -> None:
    """A Runner: Ray Tune, on a cluster or on this machine."""
    with ray_cluster(request.address):
        need = request.resources()
        room = Room(need, request.concurrent)
        at_once = room.wait(watcher.say, request.trials)
        place = OnWorkers(need)
        equip(ledger.run, spec, place, watcher.say)
        watcher.say(f"Ray is up: {at_once} trials at a time, each with {need}")
        if link := dashboard():
            watcher.say(f"Ray's dashboard: {link}")
        plan = sharing(request, spec)
        with pool_service(plan) as service:
            pools = service.address if service else None
            run_trials(spec, ledger, watcher, request, room=room, pools=pools)
            if plan and service:
                counts = service.counts()
                watcher.say(told(counts, plan.mode))
                ledger.run.note(shared=asdict(counts))
        _call_the_jury(spec, ledger, place, watcher)


def sharing(request: SweepRequest, spec: SweepSpec) -> PoolPlan | None:
    """How the sweep's trials share what they synthesize; None if they share nothing."""
    if spec.teacher_pools:
        policy: Any = request.pool_policy
        return PoolPlan(mode="teacher", budget=request.pool_bytes(), policy=policy)
    if request.share_pools == "exact" and can_share(spec):
        return PoolPlan(mode="exact", budget=request.pool_bytes())
    return None


def in_process(request: SweepRequest, spec: SweepSpec, ledger: Ledger, watcher: Watcher) -> None:
    """A Runner: the one trial of `distill`, here."""
    (method,) = spec.methods
    trial = spec.trial("t000", method, {})
    if trial.id not in ledger.records:
        ledger.add(trial)
    watcher.trial_started(trial)

    def enter(row: dict[str, Any]) -> None:
        ledger.row(trial.id, row)
        watcher.epoch_ended(trial, row)
        watcher.tick()

    device = "cuda" if request.gpus_per_worker and torch.cuda.is_available() else "cpu"
    folder = ledger.run.trial_folder(trial.id)
    place = Here(device)
    equip(ledger.run, spec, place, watcher.say)
    reason = None
    try:
        around = ledger.run.surroundings()
        links = connect(ledger.run, trial, around, None, None)
        run_trial(trial, around, folder, device=device, links=links, on_epoch=enter)
    except TrialFailed as error:
        reason = str(error)
    watcher.trial_ended(ledger.end(trial.id, reason))
    _call_the_jury(spec, ledger, place, watcher)


def _call_the_jury(spec: SweepSpec, ledger: Ledger, place: Place, watcher: Watcher) -> None:
    """Judge all students once more, if that is what selects."""
    if not SCORES[spec.select].uses_real_labels:
        watcher.say(f"the jury judges the students of {len(ledger.ended())} trials")
        give_verdicts(ledger.run, ledger.ended(), place)


def _run(
    request: SweepRequest, spec: SweepSpec, run: Run, watcher: Watcher, runner: Runner
) -> SweepResult:
    start = time.perf_counter()
    run.folder.require_writable()
    if request.export_dir is not None:
        Folder.of(request.export_dir).require_writable("--export-dir")
    with run.lock(watcher.say) as run:
        run.require_same(spec)
        ledger = Ledger.of(run)
        complete = _complete(run, ledger, spec, request.trials)
        if not complete:
            run.create(spec, request=request.remembered(), command=shlex.join(sys.argv))
        accuracy = teacher_accuracy(spec, watcher.say)
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
            if not complete:
                runner(request, spec, ledger, watcher)
            best = choose_best(ledger, run.verdicts())
            exported = run.folder.child(BEST)
            if not complete:
                watcher.say(f"exporting {best.spec.id}, the best student")
                export_best(run, best, accuracy, ledger.records.get(CONTROL_ID))
            if request.export_dir is not None:
                exported.copy_to(Folder.of(request.export_dir), seal=METRICS)
        if not complete:
            summary = {"trial": best.spec.id, "row": best.best, "recipe": dict(best.spec.recipe)}
            run.note(state="finished", best=summary, seconds=time.perf_counter() - start)
    return SweepResult(
        run=run,
        records=list(ledger.records.values()),
        best=best,
        control=ledger.records.get(CONTROL_ID),
        exported=exported,
        teacher_accuracy=accuracy,
        select=spec.select,
        verdicts=run.verdicts(),
        seconds=time.perf_counter() - start,
    )


@contextlib.contextmanager
def _ending(run: Run, ledger: Ledger, watcher: Watcher) -> Iterator[None]:
    """However the block ends, say so in the run folder and write the results there are."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into SystemExit
        run.write_results(list(ledger.records.values()))
        run.note(state="interrupted")
        raise SweepInterrupted(run) from None
    except Exception as error:
        run.write_results(list(ledger.records.values()))
        run.note(state="failed", error=str(error))
        raise
    else:
        run.write_results(list(ledger.records.values()))
    finally:
        watcher.sweep_ended()


def _complete(run: Run, ledger: Ledger, spec: SweepSpec, trials: int) -> bool:
    """Whether there is nothing left to do but to show the result."""
    ended = len(ledger.ended())
    done = trials + spec.control <= ended == len(ledger.records)
    return done and run.facts()["state"] == "finished"


def choose_best(ledger: Ledger, verdicts: Mapping[str, Verdict]) -> TrialRecord:
    """The trial with the highest fidelity by its verdict, or with the highest score without any.

    The control is no candidate. Raises SweepFailed if there is none.
    """
    scored = [
        record
        for record in ledger.ended()
        if record.outcome != "failed" and record.spec.id != CONTROL_ID and record.best
    ]
    if not scored:
        reasons = sorted({record.reason for record in ledger.ended() if record.reason})
        raise SweepFailed("every trial failed: " + ("; ".join(reasons) or "no reason is known"))
    judged = [record for record in scored if record.spec.id in verdicts]
    if judged:
        return max(judged, key=lambda record: verdicts[record.spec.id].fidelity)
    return max(scored, key=lambda record: record.best["score"] if record.best else 0.0)


def teacher_accuracy(
    spec: SweepSpec, say: Callable[[str], None] = lambda text: None
) -> float | None:
    """The teacher's accuracy on the evaluation data; None where there is none.

    `say` is told if it is no better than chance.
    """
    data = load_data(spec.task, "test", spec.data)
    if data is None:
        return None
    teacher = spec.teacher.build(spec.task)
    accuracy = float(correct(teacher.network, data)) / len(data)
    if warning := doubt(accuracy, len(data), len(spec.task.classes)):
        say(f"warning: {warning}")
    return accuracy
