"""What `dfkd sweep --dry-run` finds out: the machines, a few measured steps, and what follows."""

from __future__ import annotations

import functools
import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from dfkd.methods import load_method
from dfkd.methods.jury import PROBES, at_once
from dfkd.methods.settings import build, describe
from dfkd.orchestrator.clusters import Resources, ray_cluster
from dfkd.orchestrator.estimates import (
    Measured,
    Schedule,
    asha_share,
    host_beside_a_gpu,
    memory_plan,
    time_plan,
)
from dfkd.orchestrator.inventory import (
    Inventory,
    address_of,
    free_memory,
    joined_cluster,
    this_machine,
)
from dfkd.orchestrator.measuring import CONTROL_POOLS
from dfkd.orchestrator.meters import Meter, NotMeasured, measure_apart
from dfkd.orchestrator.pool_service import STORE_SHARE
from dfkd.orchestrator.requests import SweepRequest, plan_sweep
from dfkd.orchestrator.runs import CONTROLS, JURY, RESULTS, TEACHER
from dfkd.orchestrator.schedulers import FIRST_RUNG, REDUCTION
from dfkd.orchestrator.scores import SCORES
from dfkd.orchestrator.shelves import can_share, keeps_pools
from dfkd.orchestrator.specs import SweepSpec, TrialSpec
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.sweep_plans import SharingPlan, SweepPlan, TrialPlan, Written, cost
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.dimensions import ends
from dfkd.search_spaces.preparations import preparation

SECONDS = 30.0  # for measuring, all methods together
LEAST = 1.5  # seconds for each of them
MEMORY_SHARE = 0.5  # of what is free, for measuring
CLUSTER_PATIENCE = 300.0  # seconds for a worker of a cluster to measure
ROW = 1500  # bytes of an epoch in a trial's JSON files and the results, about
EXPORTED = 3  # times the student's weights: as weights, as a program, and what describes them

Say = Callable[[str], None]
MeasureTrial = Callable[[SweepSpec, TrialSpec, Resources, float], Measured]


def make_plan(request: SweepRequest, say: Say) -> tuple[SweepSpec, SweepPlan]:
    """The sweep that a request means, and its plan; `say` is told what is measured meanwhile.

    Nothing is trained, downloaded or written. Raises ConfigError with all problems, SweepFailed
    where a cluster that was named cannot be joined.
    """
    with _instruments(request) as (look, measure):
        spec = plan_sweep(request)
        return spec, plan_of(request, spec, look(), measure, say)


@contextmanager
def _instruments(
    request: SweepRequest,
) -> Iterator[tuple[Callable[[], Inventory], MeasureTrial]]:
    """How to look at what there is, and to measure: on this machine or on a named cluster."""
    if problems := request.problems():
        yield this_machine, _refusing(problems)
        return
    address = address_of(request.address)
    if address is None:
        with Meter() as meter:
            memory = int(MEMORY_SHARE * free_memory())
            yield this_machine, functools.partial(meter.measure, memory=memory)
        return
    with ray_cluster(request.address):
        yield lambda: joined_cluster(address), _measure_on_cluster


def _refusing(problems: list[str]) -> MeasureTrial:
    """For a request with mistakes, of which planning tells."""

    def measure(*order: Any) -> Measured:
        raise NotMeasured("; ".join(problems))

    return measure


def _measure_on_cluster(
    sweep: SweepSpec, trial: TrialSpec, need: Resources, seconds: float
) -> Measured:
    """On a worker that has what one of a trial's has; raises NotMeasured with the reason."""
    if not need.fitting():
        raise NotMeasured("no worker of the cluster has what a trial needs")
    task = ray.remote(num_cpus=need.cpus_per_worker, num_gpus=need.gpus_per_worker)(_on_a_worker)
    waiting = task.remote(sweep, trial, need, seconds)
    try:
        found: Measured | str = ray.get(waiting, timeout=CLUSTER_PATIENCE)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(waiting, force=True)
        raise NotMeasured(
            f"no worker of the cluster was free within {CLUSTER_PATIENCE:.0f} s"
        ) from None
    except ray.exceptions.RayError as error:
        raise NotMeasured(f"on a worker of the cluster: {error}") from None
    if isinstance(found, str):
        raise NotMeasured(found)
    return found


def _on_a_worker(
    sweep: SweepSpec, trial: TrialSpec, need: Resources, seconds: float
) -> Measured | str:
    return measure_apart(sweep, trial, need, seconds, int(MEMORY_SHARE * free_memory()))


def plan_of(
    request: SweepRequest, spec: SweepSpec, inventory: Inventory, measure: MeasureTrial, say: Say
) -> SweepPlan:
    """The plan of a sweep on these machines, with what `measure` finds."""
    need = request.resources()
    seconds = max(LEAST, SECONDS / len(spec.methods))
    dealt = _dealt(request.trials, list(spec.methods))
    methods = []
    for name in spec.methods:
        say(f"measuring a few steps of {name}")
        trial = spec.trial("plan", name, {})
        try:
            found: Measured | str = measure(spec, trial, need, seconds)
        except NotMeasured as error:
            found = str(error)
        methods.append(_trial_plan(spec, need, name, dealt[name], found))
    fitting = inventory.fitting(need)
    at_once = min(fitting, request.concurrent or fitting, request.trials + spec.control)
    share = _expected_share(spec, request.trials)
    times = _times(spec, methods)
    folder = _place(request, spec)
    return SweepPlan(
        task=spec.task.name,
        trials=request.trials,
        control=spec.control,
        epochs=spec.epochs,
        scheduler=spec.scheduler,
        need=need,
        inventory=inventory,
        fitting=fitting,
        at_once=at_once,
        methods=tuple(methods),
        bound=cost(times, at_once, need) if times else None,
        expected_share=share,
        expected=cost(times, at_once, need, share=share) if times and share else None,
        sharing=_sharing_plan(request, spec, inventory, methods),
        teacher=preparation(spec.task, request.teacher),
        folder=folder,
        writes=_writes(request, spec, methods, at_once),
        free=_free(Folder(folder)),
    )


def _dealt(trials: int, methods: list[str]) -> dict[str, int]:
    """How many trials each method gets: they are dealt out in turn."""
    return {name: len(range(at, trials, len(methods))) for at, name in enumerate(methods)}


def _trial_plan(
    spec: SweepSpec, need: Resources, name: str, trials: int, found: Measured | str
) -> TrialPlan:
    plan, kind = spec.methods[name], load_method(name)
    settings: Any = build(kind.settings_class, plan.recipe, name)
    decisive = _decisive(kind.settings_class)
    known = TrialPlan(
        method=name,
        trials=trials,
        recipe={key: getattr(settings, key) for key in decisive},
        varied={key: str(plan.search[key]) for key in decisive if key in plan.search},
    )
    if isinstance(found, str):
        return replace(known, failed=found)
    schedule = _schedule(spec, settings, name, need.workers)
    rows = kind.kept(settings, spec.epochs)
    host, gpu = memory_plan(found, schedule.images, rows, gpu=False), None
    if need.gpus_per_worker:
        gpu = memory_plan(found, schedule.images, rows, gpu=True)
        host = host if found.on_gpu else host_beside_a_gpu(found)
    size = found.points[-1].rows

    def weigh(stores: Mapping[str, int]) -> int:
        return round(sum(count * size.get(key, 0.0) for key, count in stores.items()))

    return replace(
        known,
        measured=found,
        host=host,
        gpu=gpu,
        time=time_plan(found, schedule),
        pool=weigh(rows),
        largest_pool=max(map(weigh, _stores_of_search(spec, name))),
    )


def _decisive(settings_class: type) -> list[str]:
    """The settings that may decide what a trial costs, whatever the method calls them.

    Whole numbers and words: sizes, counts, resolutions, precision. Rates and weights cost nothing.
    """
    return [key for key, known in describe(settings_class).items() if known.type in (int, str)]


def _schedule(spec: SweepSpec, settings: Any, method: str, workers: int) -> Schedule:
    """A trial of these settings, counted."""
    effort = load_method(method).effort
    warmups = min(settings.warmup, spec.epochs)
    judged = 0 if SCORES[spec.select].uses_real_labels else CONTROL_POOLS * PROBES
    labeled = load_data(spec.task, "test", spec.data)
    tested = 0 if labeled is None else len(labeled)
    kd = math.ceil(settings.kd_batch_size / workers)
    return Schedule(
        warmups=warmups,
        epochs=spec.epochs - warmups,
        warmup=effort(settings, learning=False, workers=workers),
        learning=effort(settings, learning=True, workers=workers),
        judged=judged + tested // workers,
        images={
            "synthesis": getattr(settings, "batch_size", kd),
            "distillation": kd,
            "judging": min(at_once(spec.task.shape), PROBES if judged else max(1, tested)),
        },
    )


def _stores_of_search(spec: SweepSpec, name: str) -> Iterator[Mapping[str, int]]:
    """What the method's stores hold at the end, for all ends of what the search varies of them."""
    plan, kind = spec.methods[name], load_method(name)

    def kept(changes: Mapping[str, Any]) -> Mapping[str, int]:
        return kind.kept(build(kind.settings_class, {**plan.recipe, **changes}, name), spec.epochs)

    usual = kept({})
    varied = {
        key: ends(dimension)
        for key, dimension in plan.search.items()
        if any(kept({key: end}) != usual for end in ends(dimension))
    }
    for chosen in itertools.product(*varied.values()):
        yield kept(dict(zip(varied, chosen, strict=True)))


def _expected_share(spec: SweepSpec, trials: int) -> float | None:
    """Of the epochs, how many the scheduler is expected to run; None where nobody can tell."""
    if spec.scheduler == "fifo":
        return 1.0
    if spec.scheduler != "asha":
        return None
    return asha_share(trials, spec.epochs, max(1, round(spec.epochs * FIRST_RUNG)), REDUCTION)


def _times(spec: SweepSpec, methods: list[TrialPlan]) -> list[tuple[int, float]] | None:
    """How many trials there are of how many seconds; None if it is not known of all.

    The control takes the student's steps of the first method.
    """
    found = []
    for trial in methods:
        if trial.time is None or trial.timed_elsewhere:
            return None
        found.append((trial.trials, trial.time.trial))
    first = methods[0].time
    if spec.control and first is not None:
        found.append((1, first.distillation + first.judging))
    return found


def _sharing_plan(
    request: SweepRequest, spec: SweepSpec, inventory: Inventory, methods: list[TrialPlan]
) -> SharingPlan:
    wanted = sum(trial.trials * trial.pool for trial in methods)
    store = min((node.store for node in inventory.nodes), default=0)
    budget = request.pool_bytes() or int(STORE_SHARE * store)
    if request.share_pools == "off":
        return SharingPlan(mode="off", told="every trial makes and keeps its own")
    if spec.teacher_pools:
        told = "trials are also taught from each other's images, and make fewer of their own"
        return SharingPlan(mode="teacher", told=told, budget=budget, wanted=wanted)
    if not can_share(spec):
        told = "no two trials would make the same: "
        told += (
            "the search draws numbers that synthesis reads"
            if keeps_pools(spec.methods)
            else "these methods keep no pool"
        )
        return SharingPlan(mode="exact", told=told)
    told = "what several trials would make alike is made once"
    return SharingPlan(mode="exact", told=told, budget=budget, wanted=wanted)


def _place(request: SweepRequest, spec: SweepSpec) -> str:
    name = request.name or f"{spec.task.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Folder.of(request.storage).child(name).uri


def _writes(
    request: SweepRequest, spec: SweepSpec, methods: list[TrialPlan], at_once: int
) -> tuple[Written, ...]:
    """The files of a run folder by kind, with about their sizes; those not measured left out."""
    shape = spec.task.shape
    image = shape.channels * shape.height * shape.width
    teacher = sum(t.numel() * t.element_size() for t in spec.teacher.state.values())
    count = request.trials + spec.control
    checkpoints = weights = kept = largest = 0
    for trial in methods:
        if trial.measured is None:
            continue
        point = trial.measured.points[-1]
        trials = trial.trials + (spec.control if trial is methods[0] else 0)
        checkpoints += trials * point.checkpoint
        largest = max(largest, request.workers * trial.largest_pool)
        weights += trials * point.student
        kept += trial.trials * trial.pool
    student = max((t.measured.points[-1].student for t in methods if t.measured), default=0)
    found = {
        TEACHER: teacher,
        CONTROLS: CONTROL_POOLS * PROBES * image,
        "trials/*/checkpoint.pt": checkpoints,
        "trials/*/blocks/, of trials that run": at_once * largest,
        "trials/*/student.safetensors": weights,
        "trials/*/probes.safetensors": count * PROBES * image,
        f"{RESULTS}, {JURY}, trials/*/*.json": count * spec.epochs * ROW,
        "best/": EXPORTED * student,
        "pools/": kept if request.keep_pool else 0,
    }
    if SCORES[spec.select].uses_real_labels:
        del found[CONTROLS]
    return tuple(Written(name=name, bytes=size) for name, size in found.items() if size)


def _free(folder: Folder) -> int | None:
    """Bytes free where a folder is or will be, on a local disk."""
    place: Path | None = folder.local
    while place is not None and not place.exists() and place != place.parent:
        place = place.parent
    return None if place is None else shutil.disk_usage(place).free
