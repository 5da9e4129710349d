"""What a GPU makes of NAYER's inner loop, at the sizes of CIFAR-10 and ImageNet.

    python benchmarks/gpu.py                        on a GPU; nothing new begins after seven minutes
    python benchmarks/gpu.py --device cpu --small   does it run? a minute, figures that mean nothing

By case and precision: images synthesized and images distilled per second, the bare passes of an
epoch (passes.py) against the epoch as a trial runs it, what share of the device's own rate of
bfloat16 products the epoch comes to, and the highest memory. Then, of the bare synthesis step, what
cuDNN's search for algorithms, CUDA graphs and torch.compile would make of it; dfkd itself uses none
of these.

The rate is that of one large product of matrices, measured here first. The operations are those of
convolutions and products in the bare passes, as torch counts them. Epochs are shortened so that one
takes some seconds: rounds are the recipe's, steps fewer. Weights and images are random.

Prints a table; writes each figure as a line of JSON to --to, by default gpu.jsonl in $OUT or here.
A case that does not fit the memory, or for which no time is left, says so in a line of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from passes import Passes
from provenance import commit, machine
from step import CASES, PRECISIONS, Case, build, device_name, in_turns, seconds
from torch.utils.flop_counter import FlopCounterMode

from dfkd.orchestrator.quick_start import spare_the_compiler
from dfkd.orchestrator.trials import Trial

REPEATS = 5  # turns of epoch and bare passes
TURN = 4.0  # seconds that an epoch should take
FIRST = 5  # steps of each kind in the epoch that is timed to know how many make TURN
MOST = 100
LIMIT = 420.0  # seconds, after which nothing new begins
COMPILING = 150.0  # seconds that must be left for torch.compile
MATRIX = 8192  # rows and columns of the product that the rate is measured by
SMALL = {"batch_size": 4, "kd_batch_size": 4, "rounds": 1, "generator_width": 4}
SMALL_SIZES = {"imagenet-112": 32, "imagenet-224": 64}
SMALL_MATRIX = 256
NAMES = ("cifar10", "imagenet-112", "imagenet-224")
HEADERS = (
    "case",
    "precision",
    "synthesized/s",
    "distilled/s",
    "epoch, s",
    "bare of it",
    "of the rate",
    "memory, GB",
    "n",
)


class Book:
    """Lines of JSON, each with where it comes from."""

    def __init__(self, path: Path, device: str) -> None:
        self._path = path
        self._about = {
            "device": device_name(device),
            "machine": machine(),
            "torch": torch.__version__,
            "commit": commit(),
        }
        path.write_text("")

    def write(self, **figures: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({**figures, **self._about}) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cases, as long as there is time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["bfloat16"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny batches, one turn, a CPU's task")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds")
    parser.add_argument("--to", type=Path, default=Path(os.environ.get("OUT", ".")) / "gpu.jsonl")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    spare_the_compiler()  # as a worker does

    def left() -> float:
        return float(options.limit - (time.perf_counter() - began))

    book = Book(options.to, options.device)
    device = torch.device(options.device)
    rate = matrix_rate(device, SMALL_MATRIX if options.small else MATRIX)
    book.write(kind="rate", flops_per_second=rate, rows=SMALL_MATRIX if options.small else MATRIX)
    print(f"{machine()}, {device_name(options.device)}, torch {torch.__version__}, ", end="")
    print(f"commit {commit()}; bfloat16 products: {rate / 1e12:.3g} TFLOP/s\n")
    print(f"| {' | '.join(HEADERS)} |\n|---|---|{'--:|' * (len(HEADERS) - 2)}", flush=True)
    for name in options.cases:
        for precision in options.precisions:
            about = {"case": name, "precision": precision}
            if left() < 0:
                book.write(kind="left out", why="no time", **about)
                continue
            try:
                trial = shortened(CASES[name], precision, options)
                passes = Passes(trial)
                figures = measured(trial, passes, 1 if options.small else REPEATS)
                figures["share"] = figures["flops"] / figures["epoch"] / rate
                book.write(kind="epoch", **about, **figures)
                print(row(about, figures), flush=True)
                passes.begin_synthesis()
                for way, taken in ways(passes, left).items():
                    book.write(kind="synthesis step", way=way, seconds=taken, **about)
                    told = taken if isinstance(taken, str) else f"{1e3 * taken:.3g} ms"
                    print(f"|   bare synthesis step, {way} | | {told} |", flush=True)
            except torch.OutOfMemoryError as error:
                book.write(kind="left out", why=str(error).partition("\n")[0], **about)
                print(f"| {name} | {precision} | does not fit the memory |", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s in all; {options.to}")


def matrix_rate(device: torch.device, rows: int) -> float:
    """Operations per second in products of two bfloat16 matrices: the best of five times ten."""
    one, other = (torch.randn(rows, rows, device=device, dtype=torch.bfloat16) for _ in "ab")

    def multiply() -> None:
        for _ in range(10):
            torch.mm(one, other)

    best = min(in_turns({"mm": multiply}, 5, device)["mm"])
    return 10 * 2 * rows**3 / best


def shortened(case: Case, precision: str, options: argparse.Namespace) -> Trial:
    """The case's trial, with as many steps as make an epoch of about TURN seconds."""
    changes: dict[str, Any] = {"precision": precision}
    if options.small:
        name = next(name for name in CASES if CASES[name] is case)
        case = replace(case, size=SMALL_SIZES.get(name, case.size), evaluated=4)
        return build(case, changes | SMALL | steps(1), options.device)
    trial = build(case, changes | steps(FIRST), options.device)
    trial.step()
    length = FIRST * TURN / seconds(trial.step, trial.device)
    del trial
    return build(case, changes | steps(max(FIRST, min(MOST, int(length)))), options.device)


def steps(length: int) -> dict[str, int]:
    return {"synthesis_steps": length, "kd_steps": length}


def measured(trial: Trial, passes: Passes, repeats: int) -> dict[str, Any]:
    """Medians over the turns; of the rates, over the trial's own rows."""
    settings = passes.settings
    with peak_memory(trial.device) as peak:
        trial.step()
    taken = in_turns({"epoch": trial.step, "bare": passes.epoch}, repeats, trial.device)
    rows = trial.history[-repeats:]
    distilled = settings.kd_steps * settings.kd_batch_size
    synthesis, distillation, rest = operations(passes)
    return {
        "n": repeats,
        "batch_size": settings.batch_size,
        "kd_batch_size": settings.kd_batch_size,
        "rounds": settings.rounds,
        "steps": settings.kd_steps,
        "epoch": statistics.median(taken["epoch"]),
        "bare": statistics.median(taken["bare"]),
        "bare_of_epoch": statistics.median(map(divided, taken["bare"], taken["epoch"])),
        "synthesized_per_second": statistics.median(
            row["images_made"] / row["seconds_synthesis"] for row in rows
        ),
        "distilled_per_second": statistics.median(
            distilled / row["seconds_distillation"] for row in rows
        ),
        "flops_of_a_synthesis_step": synthesis,
        "flops_of_a_kd_step": distillation,
        "flops": settings.rounds * settings.synthesis_steps * synthesis
        + settings.kd_steps * distillation
        + rest,
        "peak_bytes": peak[0],
        "turns": taken,
    }


def divided(one: float, other: float) -> float:
    return one / other


def operations(passes: Passes) -> tuple[int, int, int]:
    """Of a synthesis step, a KD step and an evaluation: multiplications and additions."""
    passes.begin_synthesis()
    synthesis = counted(passes.synthesis_step)
    passes.begin_distillation()
    distillation = counted(passes.kd_step)
    return synthesis, distillation, counted(passes.evaluation)


def counted(call: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    total: int = counter.get_total_flops()
    return total


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """The highest memory in the block, in bytes, once it is over; of a CPU, since the start."""
    found = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found[0] = torch.cuda.max_memory_allocated(device)
    else:
        found[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ways(passes: Passes, left: Callable[[], float]) -> dict[str, float | str]:
    """Seconds of a bare synthesis step, as it is and in ways that dfkd does not go; or why none."""
    found: dict[str, float | str] = {"as it is": repeated(passes.synthesis_step, passes.device)}
    if passes.device.type != "cuda":
        return found
    others = {"cuDNN searches": searching, "a CUDA graph": captured}
    if left() > COMPILING:
        others["compiled"] = compiled
    for way, prepare in others.items():
        try:
            found[way] = repeated(prepare(passes), passes.device)
        except RuntimeError as error:  # of a compiler or a recording that takes no such step
            found[way] = str(error).partition("\n")[0]
        torch.backends.cudnn.benchmark = False
    return found


def searching(passes: Passes) -> Callable[[], None]:
    """With convolutions for which cuDNN tries all that it has at the first step."""
    torch.backends.cudnn.benchmark = True
    return passes.synthesis_step


def captured(passes: Passes) -> Callable[[], None]:
    """Recorded once and played back."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            passes.synthesis_step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        passes.synthesis_step()
    return graph.replay


def compiled(passes: Passes) -> Callable[[], None]:
    """Forward and back through torch.compile.

    Without dfkd's hooks: they count calls, and each count would be compiled anew.
    """
    for network in (passes.teacher, passes.student):
        for module in network.modules():
            module._forward_pre_hooks.clear()
    seen = torch.compile(passes.seen)

    def step() -> None:
        passes.generator.zero_grad()
        seen().backward()

    return step


def repeated(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of a call: the median of 5 times 4, after 3 calls."""
    few = device.type == "cpu"

    def several() -> None:
        for _ in range(1 if few else 4):
            call()

    for _ in range(0 if few else 2):
        several()
    times = in_turns({"call": several}, 1 if few else 5, device)["call"]
    return statistics.median(times) / (1 if few else 4)


def row(about: Mapping[str, str], figures: Mapping[str, Any]) -> str:
    cells = (
        about["case"],
        about["precision"],
        f"{figures['synthesized_per_second']:.4g}",
        f"{figures['distilled_per_second']:.4g}",
        f"{figures['epoch']:.3g}",
        f"{figures['bare_of_epoch']:.2f}",
        f"{100 * figures['share']:.2g} %",
        f"{figures['peak_bytes'] / 1e9:.3g}",
        str(figures["n"]),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
