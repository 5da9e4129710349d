"""A few steps of a trial, timed and weighed in processes of their own, before a sweep is paid for.

The trial is the planned one, with its networks and image sizes, in a run folder that is thrown
away. Where whole batches would take too long, or more memory than there is, smaller ones are
measured, of two sizes, for `estimates` to draw a line through. Peaks of memory never fall within a
process, so each size has one to itself: a fork that starts with everything imported. It does not
count the pages of libraries that only its parent has touched; they are added.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dfkd.methods import load_method
from dfkd.methods.errors import DfkdError
from dfkd.methods.jury import PROBES, at_once, logits_of
from dfkd.methods.random_streams import stream
from dfkd.methods.settings import build
from dfkd.orchestrator.estimates import Measured, Point, Sample, extrapolated
from dfkd.orchestrator.gauges import Gauge, resident
from dfkd.orchestrator.quick_start import spare_the_compiler
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.specs import TrialSpec
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trial_actor import device as device_of
from dfkd.orchestrator.trials import Surroundings, Trial

WHOLE = 10**9  # images: no bound
SMALL = 2  # images of the first batches, whatever the recipe says
QUICK = 1.5  # seconds: what takes less is run once beforehand, unmeasured
LONGEST = 32  # steps of a kind in a measured epoch
CONTROL_POOLS = 3  # that a jury begins with (controls.py)
WARMUPS = 2  # epochs of warm-up in a measured trial, the first of them unmeasured


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be measured; the folder is a run's, with the trial proposed in it."""

    folder: str
    trial: str
    gpus: float
    threads: int
    workers: int
    """Of a trial: they share rounds and batches, and one of them is measured."""
    seconds: float
    """About how long it may take."""
    memory: int
    """Bytes that it may take."""


class Rehearsal(Trial):
    """A trial whose activities are weighed too, with weights kept as a best epoch's are."""

    def _build(self) -> None:
        self.clock = self.gauge = Gauge(self.device)
        super()._build()
        self._best_weights = {key: w.cpu().clone() for key, w in self.inner.state_dict().items()}

    def networks(self) -> int:
        """Bytes of all weights, gradients and optimizers on the trial's device."""
        weights = tensor_bytes(self.surroundings.teacher.state)
        learned = sum(p.numel() * p.element_size() for p in self.network.parameters())
        rest = tensor_bytes(self.method.state()) - self.stored()
        total = weights + learned + tensor_bytes(self.student.state()) + rest
        on_host = weights + tensor_bytes(self._best_weights)  # copies that stay there
        return total + (on_host if self.device.type == "cpu" else 0)

    def stores(self) -> dict[str, Any]:
        """What keeps images or facts about them, by its name."""
        names = self.method.kept(self.student.settings, 1)
        return {name: getattr(self.method, name) for name in names if hasattr(self.method, name)}

    def stored(self) -> int:
        return sum(tensor_bytes(store.state()) for store in self.stores().values())

    def rows(self) -> dict[str, float]:
        """Bytes of a row of each store; of an empty one, those of an image and its class."""
        shape = self.task.shape
        image = shape.channels * shape.height * shape.width + 8
        return {
            name: tensor_bytes(store.state()) / len(store) if len(store) else float(image)
            for name, store in self.stores().items()
        }


def tensor_bytes(state: Any) -> int:
    """Of all tensors in nested dicts, lists and tuples."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return tensor_bytes(list(state.values()))
    return sum(map(tensor_bytes, state)) if isinstance(state, list | tuple) else 0


def measure(order: Order) -> Measured:
    """Measure what an order says, at the sizes that its time and memory allow."""
    began = time.perf_counter()

    def left() -> float:
        return order.seconds - (time.perf_counter() - began)

    whole = max(_batches(order, WHOLE).values())
    points: tuple[Point, ...] = ()
    known: list[tuple[int, float, float]] = []  # images, and what they took: seconds, bytes
    images = min(SMALL, whole)
    while True:
        point, took = _apart(order, images, 1)
        points += (point,)
        known.append((images, took, max(point.peaks.values()) - point.program - point.networks))
        if images == whole:
            length = int(left() / 3 / max(took, 1e-3))
            points = (_lengthened(order, point, whole, length),)
            break
        further = _next_size(known, whole, left(), order.memory)
        if further < 2 * images and further != whole:
            break
        images = further
    spent = time.perf_counter() - began
    on_gpu = bool(points[-1].device_peaks)
    told = _gpu_name() if on_gpu else f"CPU, {order.threads} thread{'s' * (order.threads > 1)}"
    return Measured(device=told, on_gpu=on_gpu, seconds=spent, points=points)


def _next_size(
    known: list[tuple[int, float, float]], whole: int, seconds: float, memory: int
) -> int:
    """How many images to measure next: all if their time and memory are there, or what is."""

    def affordable(images: int) -> bool:
        times, sizes = ([(size, costs[kind]) for size, *costs in known] for kind in (0, 1))
        return 1.5 * extrapolated(times, images) < seconds and extrapolated(sizes, images) < memory

    images = whole
    while images > known[-1][0] and not affordable(images):
        images = images * 3 // 4
    return images


def _lengthened(order: Order, full: Point, most: int, length: int) -> Point:
    """The point with longer epochs beside its short ones, if there is time for any."""
    if length < 2:
        return full
    longer, _ = _apart(order, most, min(length, LONGEST))
    peaks = {key: max(value, longer.peaks[key]) for key, value in full.peaks.items()}
    return replace(
        longer,
        warmup=full.warmup + longer.warmup,
        learning=full.learning + longer.learning,
        peaks=peaks,
    )


def _batches(order: Order, most: int) -> dict[str, int]:
    """The batch sizes of a recipe for one worker, none above `most`; absent ones left out."""
    spec = _spec(order)
    settings: Any = build(load_method(spec.method).settings_class, spec.recipe, "plan")
    whole = {"kd_batch_size": math.ceil(settings.kd_batch_size / order.workers)}
    if hasattr(settings, "batch_size"):
        whole["batch_size"] = settings.batch_size
    return {key: min(value, most) for key, value in whole.items()}


def _spec(order: Order) -> TrialSpec:
    return Run(Folder(order.folder)).trial_spec(order.trial)


def _apart(order: Order, most: int, length: int) -> tuple[Point, float]:
    """`_point` in a process of its own; raises RuntimeError with the reason if that fails."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, order, most, length, resident()))
    process.start()
    there.close()
    try:
        found: tuple[Point, float] | str = here.recv()
    except EOFError:
        found = f"it ended without a word (signal {-(process.exitcode or 0)}); out of memory?"
    process.join()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _send(there: Any, order: Order, most: int, length: int, inherited: int) -> None:
    libraries = max(0, inherited - resident())
    try:
        point, took = _point(order, most, length)
        peaks = {key: value + libraries for key, value in point.peaks.items()}
        there.send((replace(point, program=point.program + libraries, peaks=peaks), took))
    except Exception as error:  # whatever it is, the plan says it
        there.send(f"{type(error).__name__}: {error}")


def _point(order: Order, most: int, length: int) -> tuple[Point, float]:
    """Short epochs with batches of at most `most` images, and the seconds of one pass."""
    spare_the_compiler()
    torch.set_num_threads(order.threads)
    run, spec = Run(Folder(order.folder)), _spec(order)
    around = run.surroundings()
    probes = _probes(around, 0 if around.score.uses_real_labels else CONTROL_POOLS * PROBES)
    device = device_of({"gpus": order.gpus})
    batches = _batches(order, most)
    kind = load_method(spec.method)
    settings: Any = build(kind.settings_class, spec.recipe, "plan")
    changes = {**kind.shortened(settings, length), **batches, "warmup": WARMUPS}
    spec = replace(spec, recipe={**spec.recipe, **changes}, epochs=max(spec.epochs, 2 * WARMUPS))
    program = resident() - tensor_bytes(around.teacher.state)
    trial = Rehearsal(spec, around, device=device)
    warmup, learning = _samples(trial, warm=settings.warmup > 0)
    judged = min(at_once(around.task.shape), max(1, _judged(around)))
    if batches != _batches(order, WHOLE):
        judged = min(judged, most)
    per_image = _judge(trial, probes[:judged] if len(probes) else _probes(around, judged))
    point = Point(
        images={
            "synthesis": batches.get("batch_size", batches["kd_batch_size"]),
            "distillation": batches["kd_batch_size"],
            "judging": judged,
        },
        warmup=warmup,
        learning=learning,
        judging=per_image,
        program=program,
        networks=trial.networks(),
        peaks=trial.gauge.host,
        rises=trial.gauge.rises,
        device_peaks=trial.gauge.device_peaks,
        pool=trial.stored(),
        rows=trial.rows(),
        student=tensor_bytes(trial.inner.state_dict()),
        checkpoint=_checkpoint(trial),
    )
    took = sum(s.synthesis + s.distillation for s in (*warmup, *learning)) + judged * per_image
    return point, took


def _judged(around: Surroundings) -> int:
    """Images that the student answers to at once, when it is looked at: a pool's, or labeled."""
    if not around.score.uses_real_labels:
        return PROBES
    return 0 if around.evaluation is None else len(around.evaluation)


def _probes(around: Surroundings, count: int) -> Tensor:
    """Gray images uint8, in the place of control pools that are not made yet."""
    shape = around.task.shape
    size = (count, shape.channels, shape.height, shape.width)
    return torch.full(size, 128, dtype=torch.uint8)


def _samples(trial: Rehearsal, *, warm: bool) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """An epoch of the warm-up, if there are any, and one of learning; after one to get going."""
    found = []
    for learning in (False, True) if warm else (True,):
        first = WARMUPS if learning else 0
        sample = _sample(trial, first, learning=learning)
        if sample.synthesis + sample.distillation < QUICK:
            sample = _sample(trial, first + 1, learning=learning)
        found.append((sample,))
    return (found[0], found[1]) if warm else ((), found[0])


def _sample(trial: Rehearsal, epoch: int, *, learning: bool) -> Sample:
    trial.clock.read()
    trial.method.epoch(epoch, stream(trial.device, trial.spec.seed, "plan", epoch))
    spent = trial.clock.read()
    return Sample(
        effort=trial.method.effort(trial.student.settings, learning=learning),
        synthesis=spent.get("synthesis", 0.0),
        distillation=spent.get("distillation", 0.0),
    )


def _judge(trial: Rehearsal, images: Tensor) -> float:
    """Seconds that the student takes for one of these images."""
    images, student = images.to(trial.device), trial.network.eval()
    for _ in range(2):
        with trial.clock("judging"):
            logits_of(student, images).cpu()
        spent = trial.clock.read()["judging"]
        if spent > QUICK:
            break
    return spent / len(images)


def _checkpoint(trial: Rehearsal) -> int:
    """Bytes of a checkpoint beside the stores."""
    states = [trial.student.state(), trial.inner.state_dict(), trial.method.state()]
    return tensor_bytes(states) - trial.stored()


def _gpu_name() -> str:
    """Asked in a process of its own: this one forks, which CUDA forbids once it was used."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(torch.cuda.get_device_name, (0,))


def main() -> None:
    """Carry out the orders on standard input, a line each; answer each with a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes elsewhere
    for line in sys.stdin:
        try:
            found = asdict(measure(Order(**json.loads(line))))
        except (DfkdError, RuntimeError) as error:
            found = {"failed": str(error)}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
