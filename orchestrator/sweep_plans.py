"""A sweep's plan as values: what it needs, takes and writes, and where that will not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.estimates import Measured, MemoryPlan, TimePlan
from dfkd.orchestrator.inventory import Inventory, Node
from dfkd.orchestrator.quantities import bytes_as_text

HOUR = 3600.0
NOT_COUNTED = (
    "starting Ray and the trials' processes",
    "making the jury's control pools, once per teacher",
    "saving checkpoints (at most a twentieth of the time)",
    "what several workers exchange, and how trials at once slow each other down",
    "what other programs take of the machine",
    "what sharing saves",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    """What a trial of one method takes, with the recipe that was measured."""

    method: str
    trials: int
    """How many of the sweep's are this method's."""
    recipe: Mapping[str, object]
    """Settings that decide what it costs, as they were measured."""
    varied: Mapping[str, str]
    """Those among them that the search varies, and how."""
    measured: Measured | None = None
    failed: str = ""
    """Why nothing was measured, if so."""
    host: MemoryPlan | None = None
    """Of one worker, where it was measured on what it will run on."""
    gpu: MemoryPlan | None = None
    """Of one worker's GPU; None: it uses none."""
    time: TimePlan | None = None
    pool: int = 0
    """Bytes of its stores at the end, by the recipe."""
    largest_pool: int = 0
    """Bytes of them at most, whatever the search chooses."""

    @property
    def timed_elsewhere(self) -> bool:
        """Whether it was measured on a CPU but will run on a GPU."""
        return self.gpu is not None and self.measured is not None and not self.measured.on_gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Time of all trials together."""

    wall: float
    """Seconds, as many trials at once as planned."""
    cpu_hours: float
    gpu_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingPlan:
    """What trials have in common."""

    mode: str
    """exact, teacher or off."""
    told: str
    """What that means here."""
    budget: int = 0
    """Bytes on each node; 0: nothing is shared."""
    wanted: int = 0
    """Bytes of all trials' images, if none were shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Files that the sweep writes."""

    name: str
    """Below the run folder."""
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """All that `--dry-run` says beside the search space."""

    task: str
    trials: int
    control: bool
    epochs: int
    scheduler: str
    need: Resources
    inventory: Inventory
    fitting: int
    """Trials that fit at once."""
    at_once: int
    """Trials that will run at once."""
    methods: tuple[TrialPlan, ...]
    bound: Cost | None
    """If no trial is stopped; None: not known."""
    expected_share: float | None
    """Of the epochs that the scheduler is expected to run; None: it cannot be told."""
    expected: Cost | None
    sharing: SharingPlan
    teacher: str
    """What has to be done for the teacher first."""
    folder: str
    writes: tuple[Written, ...]
    free: int | None
    """Bytes free where the run folder will lie; None: not known."""
    not_counted: tuple[str, ...] = NOT_COUNTED

    @property
    def written(self) -> int:
        return sum(file.bytes for file in self.writes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What will not fit, in sentences."""
        found = [*_room(self), *_host_memory(self), *_gpu_memory(self), *_storage(self)]
        return (*found, *_pool(self))


def cost(
    trials: Sequence[tuple[int, float]], at_once: int, need: Resources, *, share: float = 1.0
) -> Cost:
    """The cost of trials, given how many there are of so many seconds each.

    >>> cost([(4, 1800.0)], 2, Resources(cpus_per_worker=3))
    Cost(wall=3600.0, cpu_hours=6.0, gpu_hours=0.0)
    """
    total = share * sum(count * seconds for count, seconds in trials)
    longest = max((seconds for count, seconds in trials if count), default=0.0)
    hours = total / HOUR * need.workers
    return Cost(
        wall=max(total / max(1, at_once), longest),
        cpu_hours=hours * need.cpus_per_worker,
        gpu_hours=hours * need.gpus_per_worker,
    )


def _room(plan: SweepPlan) -> Iterator[str]:
    nodes = plan.inventory.nodes
    have = f"{sum(n.cpus for n in nodes):g} CPU and {sum(n.gpus for n in nodes):g} GPU"
    if not plan.fitting:
        yield (
            f"no trial fits: each needs {plan.need}, and {plan.inventory.where} has {have}; ask "
            "for less with --workers, --cpus-per-worker or --gpus-per-worker"
        )
    if any(node.gpus for node in nodes) and not plan.need.gpus_per_worker:
        yield "there are GPUs, and no trial would use them: --gpus-per-worker 1"


def _workers_on(plan: SweepPlan, node: Node) -> int:
    return min(node.fitting(plan.need), plan.at_once * plan.need.workers)


def _host_memory(plan: SweepPlan) -> Iterator[str]:
    most = max((trial.host.total for trial in plan.methods if trial.host), default=0)
    for node in plan.inventory.nodes:
        workers = _workers_on(plan, node)
        taken = workers * most + plan.sharing.budget
        if workers and taken > node.memory:
            room = max(0, (node.memory - plan.sharing.budget) // max(1, most))
            yield (
                f"memory: {workers} workers on a machine take {bytes_as_text(taken)} at their "
                f"peak, what is shared included, and it has {bytes_as_text(node.memory)}; "
                + (
                    f"--concurrent {max(1, room // plan.need.workers)} would fit"
                    if room >= plan.need.workers
                    else "not one trial fits; smaller batches would (--set batch_size=...)"
                )
            )
            return


def _gpu_memory(plan: SweepPlan) -> Iterator[str]:
    most = max((trial.gpu.total for trial in plan.methods if trial.gpu), default=0)
    each = plan.need.gpus_per_worker
    on_one = max(1, int(1 / each)) if each else 1
    sizes = [node.gpu_memory for node in plan.inventory.nodes if node.gpu_memory]
    if sizes and on_one * most > min(sizes):
        yield (
            f"GPU memory: {on_one} worker(s) on a GPU take {bytes_as_text(on_one * most)} and it "
            f"has {bytes_as_text(min(sizes))}"
        )


def _storage(plan: SweepPlan) -> Iterator[str]:
    if plan.free is not None and plan.written > plan.free:
        yield (
            f"storage: the run folder takes up to {bytes_as_text(plan.written)} and "
            f"{bytes_as_text(plan.free)} are free in {plan.folder}; choose another --storage"
        )


def _pool(plan: SweepPlan) -> Iterator[str]:
    sharing = plan.sharing
    store = min((node.store for node in plan.inventory.nodes), default=0)
    if sharing.budget > store:
        yield (
            f"the budget for what is shared, {bytes_as_text(sharing.budget)}, is more than the "
            f"object store's {bytes_as_text(store)}: the rest would be spilled to disk"
        )
    nodes = max(1, len(plan.inventory.nodes))
    if sharing.budget and sharing.wanted > nodes * sharing.budget:
        yield (
            f"all trials' images are {bytes_as_text(sharing.wanted)} and the budget for what is "
            f"shared is {bytes_as_text(nodes * sharing.budget)}: older ones will give way, and "
            "less is shared; --pool-budget SIZE sets it"
        )
