"""A sweep's plan for people to read, and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from dfkd.orchestrator import rendering
from dfkd.orchestrator.estimates import ACTIVITIES, MemoryPlan
from dfkd.orchestrator.inventory import Node
from dfkd.orchestrator.planning import Say, make_plan
from dfkd.orchestrator.quantities import bytes_as_text, seconds_as_text
from dfkd.orchestrator.requests import SweepRequest
from dfkd.orchestrator.sweep_plans import Cost, SweepPlan, TrialPlan

PARTS = {
    "program": "libraries and labeled images",
    "networks": "networks, gradients, optimizers",
    "step": "one step, at most",
    "pool": "the pool at its largest",
    "checkpoint": "saving a checkpoint",
}


def dry_run(request: SweepRequest, say: Say) -> tuple[list[RenderableType], dict[str, Any]]:
    """What `dfkd sweep --dry-run` shows, and the same as JSON values."""
    spec, plan = make_plan(request, say)
    definition = {key: value for key, value in spec.definition().items() if key != "teacher"}
    facts = {"event": "plan", "trials": request.trials, **definition, "plan": as_json(plan)}
    return [*rendering.plan(request, spec), *told(plan)], facts


def told(plan: SweepPlan) -> Iterator[RenderableType]:
    """What a team decides by; what will not fit comes last."""
    yield from _machines(plan)
    for trial in plan.methods:
        yield from _measured(plan, trial)
        yield from _memory(trial)
        yield from _pool(trial)
    yield from _time(plan)
    yield from _sharing(plan)
    yield plan.teacher
    yield from _writes(plan)
    yield from (f"warning: {warning}" for warning in plan.warnings)


def _machines(plan: SweepPlan) -> Iterator[RenderableType]:
    nodes = plan.inventory.nodes
    table = Table(plan.inventory.where, "CPUs", "GPUs", "memory", "object store")
    for node, count in {node: nodes.count(node) for node in nodes}.items():
        sizes = bytes_as_text(node.memory), bytes_as_text(node.store)
        table.add_row(f"{count} machine{'s' * (count > 1)}", f"{node.cpus:g}", _gpus(node), *sizes)
    yield table
    yield f"{plan.at_once} trials at once, each with {plan.need}; {plan.fitting} would fit"


def _gpus(node: Node) -> str:
    if not node.gpus:
        return "none"
    names = ", ".join(dict.fromkeys(node.gpu_names)) or "of unknown kind"
    memory = f", {bytes_as_text(node.gpu_memory)} each" if node.gpu_memory else ""
    return f"{node.gpus:g} ({names}{memory})"


def _measured(plan: SweepPlan, trial: TrialPlan) -> Iterator[str]:
    """How much was measured, on what, of which recipe."""
    recipe = " ".join(f"{key}={value}" for key, value in trial.recipe.items())
    found = trial.measured
    if found is None:
        yield f"{trial.method}: nothing could be measured: {trial.failed}; its time is unknown"
        return
    steps, point = found.steps, found.points[-1]
    batches = [str(p.images["synthesis"]) for p in found.points]
    yield (
        f"{trial.method}: measured {steps['synthesis']} steps of synthesis, of "
        f"{' and '.join(batches)} images, and {steps['distillation']} of the student, of "
        f"{point.images['distillation']}, on {found.device}, in {found.seconds:.0f} s"
    )
    if extrapolated(trial):
        yield "  larger batches are drawn in a line from these: whole ones would take too long here"
    yield f"  at the recipe {recipe}"
    if trial.varied:
        varied = ", ".join(f"{key}: {how}" for key, how in trial.varied.items())
        yield f"  which the search varies, and with some of it what a trial takes: {varied}"
    if trial.timed_elsewhere:
        yield (
            "  trials would run on a GPU, and there is none here: what they take there in time is "
            "unknown; memory is as counted on the CPU, without a GPU's libraries and workspace"
        )


def extrapolated(trial: TrialPlan) -> bool:
    """Whether the planned batches are larger than those that were measured."""
    if trial.measured is None:
        return False
    images = trial.measured.points[-1].images
    return any(
        isinstance(planned := trial.recipe.get(key), int) and planned > images[activity]
        for key, activity in (("batch_size", "synthesis"), ("kd_batch_size", "distillation"))
    )


def _memory(trial: TrialPlan) -> Iterator[RenderableType]:
    kinds: dict[str, MemoryPlan] = {}
    if trial.host is not None:
        kinds["host"] = trial.host
    if trial.gpu is not None:
        kinds["GPU"] = trial.gpu
    if not kinds:
        return
    table = Table("memory of a trial's worker", *kinds)
    for part, words in PARTS.items():
        sizes = [getattr(kind, part) for kind in kinds.values()]
        if part == "step":
            words += f" (of {list(kinds.values())[-1].busiest})"
        table.add_row(words, *map(bytes_as_text, sizes))
    table.add_row("together", *(bytes_as_text(kind.total) for kind in kinds.values()))
    yield table


def _pool(trial: TrialPlan) -> Iterator[str]:
    if trial.largest_pool > trial.pool:
        yield (
            f"  the pool is {bytes_as_text(trial.pool)} by this recipe, and up to "
            f"{bytes_as_text(trial.largest_pool)} by what the search may choose"
        )


def _time(plan: SweepPlan) -> Iterator[RenderableType]:
    table = Table("time of a trial", *ACTIVITIES, "together")
    for trial in plan.methods:
        if trial.time is not None:
            where = f" on {trial.measured.device}" if trial.measured else ""
            spent = [getattr(trial.time, activity) for activity in ACTIVITIES]
            told = map(seconds_as_text, [*spent, trial.time.trial])
            table.add_row(trial.method + where, *told)
    if table.row_count:
        yield table
    trials = f"{plan.trials} trials" + (" and the control" if plan.control else "")
    if plan.bound is None:
        kind = "GPU-hours" if plan.need.gpus_per_worker else "CPU-hours"
        yield f"the time of {trials}, and their {kind}, are unknown: see above"
    else:
        yield f"{trials}, if none is stopped: {_cost(plan, plan.bound)}"
    yield from _expected(plan)
    yield f"not counted: {'; '.join(plan.not_counted)}"


def _expected(plan: SweepPlan) -> Iterator[str]:
    if plan.scheduler == "fifo":
        return
    if plan.expected_share is None:
        yield f"how much {plan.scheduler} saves depends on the scores, and is not estimated"
        return
    share = f"{100 * plan.expected_share:.0f} % of the epochs"
    amount = "" if plan.expected is None else f": {_cost(plan, plan.expected)}"
    yield f"expected of {plan.scheduler}, if scores fall in random order, {share}{amount}"


def _cost(plan: SweepPlan, cost: Cost) -> str:
    hours = (
        f"{cost.gpu_hours:,.2f} GPU-hours"
        if plan.need.gpus_per_worker
        else f"{cost.cpu_hours:,.2f} CPU-hours"
    )
    return f"{seconds_as_text(cost.wall)}, {hours}"


def _sharing(plan: SweepPlan) -> Iterator[str]:
    sharing = plan.sharing
    yield f"--share-pools {sharing.mode}: {sharing.told}" + (
        f"; up to {bytes_as_text(sharing.budget)} on each machine, where all trials' images are "
        f"{bytes_as_text(sharing.wanted)}"
        if sharing.budget
        else ""
    )


def _writes(plan: SweepPlan) -> Iterator[RenderableType]:
    table = Table("would be written", "up to")
    for file in plan.writes:
        table.add_row(file.name, bytes_as_text(file.bytes))
    table.add_row("together", bytes_as_text(plan.written))
    yield table
    free = "" if plan.free is None else f", where {bytes_as_text(plan.free)} are free"
    yield f"in {plan.folder}{free}"


def as_json(plan: SweepPlan) -> dict[str, Any]:
    """The plan's values, with the sums that people are shown."""
    found = asdict(plan)
    for tree, trial in zip(found["methods"], plan.methods, strict=True):
        tree["extrapolated"] = extrapolated(trial)
        tree["timed_elsewhere"] = trial.timed_elsewhere
        for kind in ("host", "gpu"):
            if (memory := getattr(trial, kind)) is not None:
                tree[kind]["total"] = memory.total
        if trial.time is not None:
            tree["time"]["trial"] = trial.time.trial
        if trial.measured is not None:
            tree["measured"]["steps"] = trial.measured.steps
    return {**found, "written": plan.written, "warnings": list(plan.warnings)}
