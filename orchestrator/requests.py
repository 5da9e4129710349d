"""From what a user asks for to what is to be run; every mistake is found before anything starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dfkd.methods import CONTROL, METHODS
from dfkd.methods.errors import ConfigError, unknown
from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.fetching import fetched
from dfkd.orchestrator.keepers import POLICIES
from dfkd.orchestrator.options import SweepOptions
from dfkd.orchestrator.pools import find_pool, require_drawable
from dfkd.orchestrator.quantities import parse_bytes
from dfkd.orchestrator.runs import SWEEP, TEACHER, Run, find_runs
from dfkd.orchestrator.schedulers import SCHEDULERS
from dfkd.orchestrator.scores import SCORES
from dfkd.orchestrator.search import SEARCHES
from dfkd.orchestrator.shelves import keeps_pools
from dfkd.orchestrator.specs import (
    Choices,
    MethodPlan,
    SweepSpec,
    fingerprint,
    gathering,
    objections,
    plan_methods,
    sweep_from_definition,
)
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.tracking import tracking_problems
from dfkd.orchestrator.trials import Surroundings, Trial
from dfkd.search_spaces.data import load_data, same_images
from dfkd.search_spaces.sources import is_named
from dfkd.search_spaces.task import Task, load_task
from dfkd.search_spaces.teachers import find_teacher, planned_teacher, teacher_from_bytes

SHARING = ("exact", "teacher", "off")
ALL = "all"  # every method but the control


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRequest(SweepOptions):
    """A task, and everything that `dfkd sweep` can be asked of it."""

    task: str
    """A task's name, or the path or URI of a task's YAML file."""

    def problems(self) -> list[str]:
        """What is wrong with it before looking at the task."""
        found = []
        if self.trials < 1:
            found.append(f"trials must be at least 1, got {self.trials}")
        if self.concurrent is not None and self.concurrent < 1:
            found.append(f"concurrent must be at least 1, got {self.concurrent}")
        if not self.methods:
            found.append("at least one method is needed")
        known = {"scheduler": SCHEDULERS, "search": SEARCHES, "select": tuple(SCORES)}
        for kind, names in known.items():
            if (name := getattr(self, kind)) not in names:
                found.append(unknown(kind, name, names))
        if self.share_pools not in SHARING:
            found.append(unknown("way to share pools", self.share_pools, SHARING))
        if self.pool_policy not in POLICIES:
            found.append(unknown("pool policy", self.pool_policy, POLICIES))
        if self.name is not None and (not self.name or "/" in self.name or self.name[0] == "."):
            found.append(f"name must be a plain word without slashes, got '{self.name}'")
        found += tracking_problems(self.track, self.storage)
        for check in (self.resources, self.pool_bytes):
            with gathering(found):
                check()
        return found

    def pool_bytes(self) -> int:
        """The budget of what is shared on each node; 0 if it is left to dfkd."""
        return 0 if self.pool_budget is None else parse_bytes(self.pool_budget, "--pool-budget")

    def remembered(self) -> dict[str, Any]:
        """What its run folder keeps of it, beside the sweep's definition, to resume anywhere."""
        resources = ("trials", "cpus_per_worker", "gpus_per_worker", "concurrent")
        kept = (*resources, "share_pools", "pool_budget", "pool_policy", "keep_pool", "track")
        to = None if self.export_dir is None else Folder.of(self.export_dir).uri
        return {**{key: getattr(self, key) for key in kept}, "export_dir": to}

    def resources(self) -> Resources:
        """What one trial takes."""
        return Resources(
            workers=self.workers,
            cpus_per_worker=self.cpus_per_worker,
            gpus_per_worker=self.gpus_per_worker,
        )


def resolve(request: SweepRequest, say: Callable[[str], None]) -> SweepSpec:
    """The sweep that a request means; trains and caches a task's teacher if need be.

    Raises ConfigError with all problems, found before any training.
    """
    return with_its_teacher(plan_sweep(request), request, say)


def with_its_teacher(
    spec: SweepSpec, request: SweepRequest, say: Callable[[str], None]
) -> SweepSpec:
    """A planned sweep with its teacher as it is; trains and caches a task's if need be."""
    spec = replace(spec, teacher=find_teacher(spec.task, _teacher(request), say))
    if spec.from_pool is not None:
        where = Folder(spec.from_pool)
        images = require_drawable(where, spec.task.shape, spec.teacher.fingerprint)
        say(f"trials draw from the {images:,} images in {spec.from_pool}")
    return spec


def plan_sweep(request: SweepRequest) -> SweepSpec:
    """As `resolve`, but a task's own teacher stays untrained: to show, not to run."""
    found = request.problems()
    try:
        task = _with_images(load_task(fetched(request.task, "task")), request.data)
    except ConfigError as error:
        raise ConfigError(*found, *error.problems) from None
    choices = Choices(
        methods=tuple(dict.fromkeys(_named(request.methods))),
        epochs=request.epochs,
        student=request.student,
        settings=request.settings,
    )
    plans: dict[str, MethodPlan] = {}
    teacher = None
    with gathering(found):
        plans = plan_methods(task, choices)
    with gathering(found):
        _check_selection(task, request)
    if plans and request.share_pools == "teacher" and not keeps_pools(plans):
        found.append(
            f"--share-pools teacher needs a method that keeps a pool, such as nayer; "
            f"{', '.join(plans)} would share nothing"
        )
    pool = None
    with gathering(found):
        if request.from_pool is not None:
            pool = find_pool(request.from_pool, request.storage).uri
    with gathering(found):
        teacher = planned_teacher(task, _teacher(request))
    if teacher is not None:
        found += objections(task, plans, teacher)
    if found or teacher is None:
        raise ConfigError(*dict.fromkeys(found))
    spec = SweepSpec(
        task=task,
        methods=plans,
        epochs=request.epochs or task.epochs,
        student=request.student or task.student,
        teacher=teacher,
        seed=request.seed,
        scheduler=request.scheduler,
        search=request.search,
        select=request.select,
        workers=request.workers,
        control=request.control,
        data=_absolute(request.data),
        teacher_pools=request.share_pools == "teacher",
        from_pool=pool,
    )
    _rehearse(spec)
    return spec


def _teacher(request: SweepRequest) -> str | None:
    """The teacher that was asked for, in a file of this machine."""
    return None if request.teacher is None else fetched(request.teacher, "teacher file")


def _rehearse(spec: SweepSpec) -> None:
    """Build one trial of each method, so that one that cannot be built is told of before any runs.

    What a method needs of the student, say, shows when the two meet.
    """
    score = SCORES[spec.select]
    around = Surroundings(task=spec.task, teacher=spec.teacher, score=score, evaluation=None)
    found: list[str] = []
    for name in spec.methods:
        with gathering(found, f"{name}: "):
            Trial(spec.trial("rehearsal", name, {}), around)
    if found:
        raise ConfigError(*found)


def _named(methods: Iterable[str]) -> Iterator[str]:
    """The methods with `all` spelled out; the control runs beside them anyway."""
    for name in methods:
        if name == ALL:
            yield from (known for known in METHODS if known != CONTROL)
        else:
            yield name


def _with_images(task: Task, data: str | None) -> Task:
    """The task with its images taken from `data`, where its own are not installed.

    Only if `data` keeps training and test images apart: a teacher is trained on the former.
    """
    if data is None or task.data is None or not is_named(task.data):
        return task
    try:
        load_data(task, "train")
    except ConfigError:
        train, test = load_data(task, "train", data), load_data(task, "test", data)
        if train is not None and test is not None and not same_images(train, test):
            return replace(task, data=_absolute(data))
    return task


def _check_selection(task: Task, request: SweepRequest) -> None:
    data = load_data(task, "test", request.data)
    score = SCORES.get(request.select)
    if score is not None and score.uses_real_labels and data is None:
        raise ConfigError(
            f"--select {request.select} needs labeled images and task {task.name} has none; "
            "give some with --data PATH"
        )


def _absolute(data: str | None) -> str | None:
    """Data as a run folder keeps it, to be found from any folder."""
    return data if data is None or is_named(data) else str(Path(data).absolute())


def choose_run(
    request: SweepRequest, definition: Mapping[str, Any], say: Callable[[str], None]
) -> Run:
    """The run folder for a sweep: the named one, one that was interrupted, or a new one."""
    storage = Folder.of(request.storage)
    if request.name is not None:
        return Run(storage.child(request.name))
    same = fingerprint(definition)
    for run in find_runs(storage):
        facts = run.facts()
        unfinished = facts["state"] in ("interrupted", "running")  # the latter: or killed
        if facts["fingerprint"] == same and unfinished and not run.is_running():
            say(f"resuming {run.name}, which was interrupted; another --name starts afresh")
            return run
    stem = f"{definition_name(definition)}-{time.strftime('%Y%m%d-%H%M%S')}"
    name, number = stem, 2
    while storage.child(name).exists(SWEEP):
        name, number = f"{stem}-{number}", number + 1
    return Run(storage.child(name))


def definition_name(definition: Mapping[str, Any]) -> str:
    """The task's name out of a definition."""
    return str(next(yaml.safe_load_all(definition["task"]))["task"])


def request_of(run: Run, **changes: Any) -> tuple[SweepRequest, SweepSpec]:
    """The request and the sweep that a run folder was made for, to resume it."""
    storage = run.folder.parent.uri
    if not run.folder.exists(SWEEP):
        names = [other.name for other in find_runs(Folder.of(storage))]
        raise ConfigError(f"{unknown('sweep', run.name, names)}; `dfkd runs` lists them")
    facts = run.facts()
    weights = run.folder.read(TEACHER)
    if weights is None:
        raise ConfigError(f"{run.folder.uri} holds no teacher; start the sweep again")
    sweep = sweep_from_definition(facts["definition"], teacher_from_bytes(weights))
    kept = {key: value for key, value in changes.items() if value is not None}
    request = SweepRequest(
        task=sweep.task.name,
        methods=tuple(sweep.methods),
        workers=sweep.workers,
        name=run.name,
        storage=storage,
        **{**facts["request"], **kept},
    )
    return request, sweep
