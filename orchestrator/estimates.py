"""What a trial will take, estimated from a few measured steps: pure arithmetic, as values.

`measuring` makes the measurements, `planning` puts a sweep's plan together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dfkd.methods.effort import Effort
from dfkd.methods.pieces import PIECE

ACTIVITIES = ("synthesis", "distillation", "judging")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measured epoch: what it consisted of, and how long that took, in seconds."""

    effort: Effort
    synthesis: float
    distillation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was measured at one size of the batches, in a process of its own."""

    images: Mapping[str, int]
    """How many images each of ACTIVITIES handles at once."""
    warmup: tuple[Sample, ...]
    """Epochs of the warm-up, a short one and perhaps a longer one; none where there is none."""
    learning: tuple[Sample, ...]
    judging: float
    """Seconds that the student takes for an image in evaluation mode."""
    program: int
    """Bytes on the host before the trial is built: libraries and labeled images."""
    networks: int
    """Bytes of weights, gradients and optimizers, where the trial computes."""
    peaks: Mapping[str, int]
    """Highest bytes in each of ACTIVITIES: of the host's memory, all told."""
    rises: Mapping[str, int] = field(default_factory=dict)
    """Of the host's peaks, what lies above the memory held when the activity began: an allocator
    keeps what it was given back, which does not grow with the next activity's batches."""
    device_peaks: Mapping[str, int] = field(default_factory=dict)
    """The same of a GPU's memory; empty on a CPU."""
    pool: int = 0
    """Bytes in the method's stores when the peaks were measured."""
    rows: Mapping[str, float] = field(default_factory=dict)
    """Bytes of one row of each store."""
    student: int = 0
    """Bytes of the student's weights."""
    checkpoint: int = 0
    """Bytes of a checkpoint without the stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that was measured for one recipe; the points from the smallest batches on."""

    device: str
    """What it was measured on, in words."""
    on_gpu: bool
    seconds: float
    """That the measuring took."""
    points: tuple[Point, ...]

    @property
    def steps(self) -> dict[str, int]:
        """How many steps of synthesis and of the student were timed at the largest batches."""
        samples = (*self.points[-1].warmup, *self.points[-1].learning)
        return {
            "synthesis": round(sum(sample.effort.steps for sample in samples)),
            "distillation": round(sum(sample.effort.lessons for sample in samples)),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A whole trial, counted: of one worker."""

    warmups: int
    """Epochs of synthesis alone."""
    epochs: int
    """In which the student learns."""
    warmup: Effort
    learning: Effort
    judged: int
    """Images that the student answers to in an epoch, for jury and accuracy."""
    images: Mapping[str, int]
    """How many images each of ACTIVITIES handles at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePlan:
    """Seconds of a trial that runs to its end, alone on its share of the machine."""

    synthesis: float
    distillation: float
    judging: float

    @property
    def trial(self) -> float:
        return self.synthesis + self.distillation + self.judging


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes that one worker of a trial takes at its peak, in parts."""

    program: int
    """Libraries and labeled images; 0 on a GPU."""
    networks: int
    step: int
    """What one step holds on top, in the activity that holds most."""
    busiest: str
    """Which of ACTIVITIES that is."""
    pool: int
    """The method's stores at their largest."""
    checkpoint: int
    """The piece of it that is in memory while it is saved; 0 on a GPU."""

    @property
    def total(self) -> int:
        return self.program + self.networks + self.step + self.pool + self.checkpoint


def time_plan(measured: Measured, schedule: Schedule) -> TimePlan:
    """The time of a trial: what each kind of step costs, times how many there are."""
    points, images = measured.points, schedule.images
    spent = {"synthesis": 0.0, "distillation": 0.0}
    for epochs, effort, kind in (
        (schedule.warmups, schedule.warmup, "warmup"),
        (schedule.epochs, schedule.learning, "learning"),
    ):
        found = [(point, getattr(point, kind)) for point in points if getattr(point, kind)]
        if not epochs or not found:
            continue
        sizes = [point.images["synthesis"] for point, _ in found]
        rounds, steps = (
            extrapolated(list(zip(sizes, costs, strict=True)), images["synthesis"])
            for costs in zip(*(_round_costs(samples) for _, samples in found), strict=True)
        )
        spent["synthesis"] += epochs * (effort.rounds * rounds + effort.steps * steps)
        lessons = extrapolated(
            [(point.images["distillation"], _lesson_cost(samples)) for point, samples in found],
            images["distillation"],
        )
        spent["distillation"] += epochs * effort.lessons * lessons
    every = schedule.warmups + schedule.epochs
    return TimePlan(**spent, judging=every * schedule.judged * points[-1].judging)


def _round_costs(samples: tuple[Sample, ...]) -> tuple[float, float]:
    """Seconds of a round beside its steps, and of a step.

    From two samples whose rounds differ in length; of one, or of equals, all is the steps'.
    """
    long = samples[-1]
    if not long.effort.steps:
        return 0.0, 0.0
    step = long.synthesis / long.effort.steps
    short = samples[0]
    lengths = [s.effort.steps / s.effort.rounds for s in (short, long) if s.effort.rounds]
    if len(lengths) < 2 or lengths[0] >= lengths[1]:
        return 0.0, step
    per_round = [s.synthesis / s.effort.rounds for s in (short, long)]
    slope = (per_round[1] - per_round[0]) / (lengths[1] - lengths[0])
    slope = min(max(slope, 0.0), step)
    return per_round[1] - slope * lengths[1], slope


def _lesson_cost(samples: tuple[Sample, ...]) -> float:
    long = samples[-1]
    return long.distillation / long.effort.lessons if long.effort.lessons else 0.0


def extrapolated(known: list[tuple[int, float]], images: int) -> float:
    """A cost at a batch of `images`, from what it was at smaller ones.

    Along a line through the last two: never less than at the largest known, and never more than in
    proportion to it.

    >>> extrapolated([(4, 1.0), (8, 1.5)], 16), extrapolated([(4, 1.0)], 8)
    (2.5, 2.0)
    """
    largest, cost = known[-1]
    if images <= largest or not largest:
        return cost
    most = cost * images / largest
    if len(known) < 2 or known[-2][0] >= largest:
        return most
    before, less = known[-2]
    line = cost + (cost - less) * (images - largest) / (largest - before)
    return min(max(line, cost), most)


def memory_plan(
    measured: Measured, images: Mapping[str, int], rows: Mapping[str, int], *, gpu: bool
) -> MemoryPlan:
    """The memory of one worker; `rows` are those of each store at its largest.

    With `gpu` that of the GPU. Where it was measured on a CPU, the tensors of a step are taken to
    be as large on a GPU. What a trial on a GPU takes of the host is the libraries, as measured.
    """
    there = gpu == measured.on_gpu  # measured where it is asked for
    last = measured.points[-1]
    steps = {}
    for activity in ACTIVITIES:
        known = [(point.images[activity], _rise(point, activity, gpu)) for point in measured.points]
        grown = extrapolated(known, images[activity]) - known[-1][1]
        steps[activity] = _step(last, activity, gpu) + grown
    if measured.on_gpu and not gpu:  # the host of a GPU: what it held, whatever the batches
        steps = {activity: _step(last, activity, gpu) for activity in ACTIVITIES}
    busiest = max(ACTIVITIES, key=steps.__getitem__)
    stores = round(sum(count * last.rows.get(name, 0.0) for name, count in rows.items()))
    on_host = not gpu and not measured.on_gpu
    saved = min(PIECE, last.checkpoint + stores)
    return MemoryPlan(
        program=0 if gpu else last.program,
        networks=last.networks if there or gpu else 0,
        step=round(steps[busiest]),
        busiest=busiest,
        pool=stores if gpu or on_host else 0,
        checkpoint=0 if gpu else saved,
    )


def host_beside_a_gpu(measured: Measured) -> MemoryPlan:
    """What a trial on a GPU takes of the host, where no GPU was there to measure it.

    Libraries and weights, as on a CPU; what a GPU's own libraries add is not known.
    """
    last = measured.points[-1]
    return MemoryPlan(
        program=last.program,
        networks=last.networks,
        step=0,
        busiest=ACTIVITIES[0],
        pool=0,
        checkpoint=PIECE,
    )


def _rise(point: Point, activity: str, gpu: bool) -> float:
    """What of it grows with the batch."""
    if activity in point.rises and not (gpu and point.device_peaks):
        return float(point.rises[activity])
    return _step(point, activity, gpu)


def _step(point: Point, activity: str, gpu: bool) -> float:
    """Bytes that an activity held beside networks and stores."""
    if gpu and point.device_peaks:
        return max(0.0, point.device_peaks[activity] - point.networks - point.pool)
    resident = point.program if point.device_peaks else point.program + point.networks + point.pool
    return max(0.0, point.peaks[activity] - resident)


def asha_share(trials: int, epochs: int, first: int, reduction: int) -> float:
    """The share of all epochs that asynchronous successive halving is expected to run.

    If trials come one after another and their scores fall in random order. With n scores known at a
    rung, the next is let through with probability (n - (n - 1)(1 - 1/r)) / (n + 1), the chance of
    a value to lie above the quantile 1 - 1/r of n others.

    >>> asha_share(trials=1, epochs=30, first=9, reduction=3)
    1.0
    """
    rungs = []
    rung = first
    while rung < epochs:
        rungs.append(rung)
        rung *= reduction
    run, arrived = 0.0, [0.0] * len(rungs)
    for _ in range(trials):
        reach, done = 1.0, 0
        for place, rung in enumerate(rungs):
            run += reach * (rung - done)
            known = arrived[place]
            arrived[place] += reach
            reach *= _through(known, reduction)
            done = rung
        run += reach * (epochs - done)
    return run / (trials * epochs)


def _through(known: float, reduction: int) -> float:
    if known < 1:
        return 1.0
    return (known - (known - 1) * (1 - 1 / reduction)) / (known + 1)
