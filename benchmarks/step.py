"""What is left of an epoch beside the networks' own passes: how fast is the inner loop?

    python benchmarks/step.py                        digits and Fashion-MNIST, on the CPU
    python benchmarks/step.py --threads 2 --cases reference
    python benchmarks/step.py --device cuda --cases cifar10 imagenet-112 imagenet-224
    python benchmarks/step.py --steps 2 --repeats 1  does it run?

In one process, in turns: (a) the bare passes of an epoch of NAYER, called back to back on data that
lies ready: in synthesis the generator forward, the teacher and the student forward, one backward
pass through all three; in distillation the teacher forward, the student forward and backward; in
evaluation the student forward. No loss but a sum, no optimizer, no augmentation, no pool, nothing
drawn. (b) the real epoch, as a trial's worker runs it, with its row and its clock. Both in the same
precision. Weights are random: a network's speed does not depend on them. Evaluation is in float32
always, as the exported student is.

`reference` is what the public implementation of NAYER was timed on: Fashion-MNIST as 3x32x32,
ResNet-20 teacher, ResNet-8 student, one round of 10 steps of 100 images (generator of width 64, 10
noisy layers of 512 to 1000), 60 student steps of 128 images, evaluation on 2,000. It is timed
against the same arithmetic in plain PyTorch as well (plain_loop.py). Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from passes import Passes
from plain_loop import PlainLoop, Sizes
from provenance import commit, machine
from safetensors.torch import save_file

from dfkd.methods.networks import build_network
from dfkd.methods.shape import ImageShape
from dfkd.orchestrator.quick_start import spare_the_compiler
from dfkd.orchestrator.scores import SCORES
from dfkd.orchestrator.specs import Choices, TrialSpec, plan_methods
from dfkd.orchestrator.trials import Surroundings, Trial
from dfkd.search_spaces.data import LabeledImages
from dfkd.search_spaces.task import load_task
from dfkd.search_spaces.teachers import TeacherWeights

METHOD = "nayer"
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An epoch to time; what is None is as the task has it."""

    task: str
    size: int | None = None
    channels: int | None = None
    teacher: str | None = None
    student: str | None = None
    label_width: int | None = None
    recipe: Mapping[str, Any]
    evaluated: int


CASES = {
    "digits": Case(task="digits", recipe={}, evaluated=400),
    "fashion_mnist": Case(task="fashion_mnist", size=32, recipe={}, evaluated=10_000),
    "reference": Case(
        task="fashion_mnist",
        size=32,
        channels=3,
        teacher="resnet-20",
        student="resnet-8",
        label_width=512,
        recipe={
            "batch_size": 100,
            "synthesis_steps": 10,
            "rounds": 1,
            "kd_steps": 60,
            "kd_batch_size": 128,
            "generator_width": 64,
            "noisy_layers": 10,
            "noisy_width": 1000,
            "shift": 4,
        },
        evaluated=2_000,
    ),
    "cifar10": Case(task="cifar10", recipe={"kd_steps": 50}, evaluated=1_000),
    "imagenet-112": Case(
        task="imagenet",
        size=112,
        teacher="torchvision/resnet50",
        recipe={"kd_steps": 200},
        evaluated=200,
    ),
    "imagenet-224": Case(
        task="imagenet",
        size=224,
        teacher="torchvision/resnet50",
        recipe={"kd_steps": 200},
        evaluated=200,
    ),
}


def main() -> None:
    """Time the cases, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES)[:3])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, help="student steps per epoch; without it, the case's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spare_the_compiler()  # as a worker does
    print(f"{machine()}, {device_name(options.device)}, commit {commit()}; {vars(options)}\n")
    print("| case | precision | | median, s | 10th to 90th percentile | of the epoch | n |")
    print("|---|---|---|--:|---|--:|--:|", flush=True)
    for name in options.cases:
        for precision in options.precisions:
            changes: dict[str, Any] = {"precision": precision}
            if options.steps:
                changes |= {"kd_steps": options.steps}
            trial = build(CASES[name], changes, options.device)
            calls = {"epoch": trial.step, "bare passes": Passes(trial).epoch}
            if name == "reference" and trial.device.type == "cpu":
                calls["plain loop"] = plain(trial, options.steps)
            taken = in_turns(calls, options.repeats, trial.device)
            for what, times in taken.items():
                print(row(name, precision, what, times, taken["epoch"]), flush=True)


def build(case: Case, changes: Mapping[str, Any], device: str) -> Trial:
    """A trial that learns from its first epoch, with random weights and random test images."""
    task = load_task(case.task)
    shape = task.shape
    size, channels = case.size or shape.height, case.channels or shape.channels
    task = replace(
        task,
        shape=ImageShape(channels, size, case.size or shape.width),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        embeddings="random"
        if case.label_width is None
        else label_file(task.classes, case.label_width),
    )
    settings = {**case.recipe, **changes, "warmup": 0}
    recipe = plan_methods(task, Choices(student=case.student, settings=settings))[METHOD].recipe
    network = case.teacher or task.teacher.network
    weights = build_network(network, channels, len(task.classes)).state_dict()
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (case.evaluated, channels, size, size), generator=draws)
    labels = torch.randint(len(task.classes), (case.evaluated,), generator=draws)
    evaluation = LabeledImages(images.to(torch.uint8), labels)
    student = case.student or task.student
    spec = TrialSpec(id="t", method=METHOD, recipe=recipe, student=student, epochs=1000, seed=0)
    around = Surroundings(
        task=task,
        teacher=TeacherWeights(network, weights, "random weights"),
        score=SCORES["accuracy"],
        evaluation=evaluation,
    )
    return Trial(spec, around, device=device)


def in_turns(
    calls: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each call, in turns, after one of each."""
    taken: dict[str, list[float]] = {what: [] for what in calls}
    for turn in range(repeats + 1):
        for what, call in calls.items():
            spent = seconds(call, device)
            if turn:
                taken[what].append(spent)
    return taken


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes, with what it leaves the device to do."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def label_file(classes: Sequence[str], width: int) -> str:
    """A file of random label embeddings of this width."""
    folder = tempfile.mkdtemp(prefix="dfkd-bench-")
    vectors = torch.randn(len(classes), width, generator=torch.Generator().manual_seed(0))
    save_file({"embeddings": vectors}, f"{folder}/labels.safetensors")
    return f"{folder}/labels.safetensors"


def row(name: str, precision: str, what: str, times: list[float], epochs: list[float]) -> str:
    """One row of the table."""
    low, *_, high = statistics.quantiles(times, n=10) if len(times) > 1 else times * 2
    share = statistics.median(one / epoch for one, epoch in zip(times, epochs, strict=True))
    return (
        f"| {name} | {precision} | {what} | {statistics.median(times):.3g} "
        f"| {low:.3g} to {high:.3g} | {share:.2f} | {len(times)} |"
    )


def device_name(device: str) -> str:
    """The GPU's name, or that it is the CPU."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def plain(trial: Trial, kd_steps: int | None) -> Callable[[], None]:
    """The plain loop, with networks of its own."""
    case, evaluation = CASES["reference"], trial.surroundings.evaluation
    assert case.teacher and case.student and isinstance(evaluation, LabeledImages)
    teacher, student = (build_network(name, 3, 10) for name in (case.teacher, case.student))
    sizes = Sizes(kd_steps=kd_steps or Sizes().kd_steps)
    tests = evaluation.images.float() / 255
    return PlainLoop(teacher, student, tests, trial.method.settings.precision, sizes).epoch


if __name__ == "__main__":
    main()
