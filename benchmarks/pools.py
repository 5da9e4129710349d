"""What the shared pool costs a trial: to draw from it, to sample, to add, and in company.

    python benchmarks/pools.py    everything, about five minutes on four idle cores
    python benchmarks/pools.py --images 2560 --batches 10 --repeats 2 --adds 4 --crowd 500 \
        --trials 8 --seconds 3    does it run?

Prints Markdown. Images are 3x32x32, torch has one thread, Ray is one of its own on this machine.

Sampling is an epoch as a trial has it: all of the keeper's shards are drawn through `OthersShards`
(mapped), copied into the trial's own `Pool`, and batches of 512 floats are sampled from that. No
epoch draws so much in a sweep, so the share of the draw is the largest there can be. Against it: a
plain gather from a tensor in memory, in turns with it; and the same images as PNG files, read by a
DataLoader with two workers, which are up and whose files are in the page cache when the clock
starts.

Company is small actors that draw as `OthersShards.draw` does, at their own pace, without torch, so
that 64 processes fit; every fourth of them also adds a shard per draw. A sample call is the
question to the keeper and its answer; the arrays are mapped after it. A crowd is many very small
shards: what does a keeper's answer cost that has to choose among them?
"""

from __future__ import annotations

import argparse
import operator
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.nn.functional as F
from PIL import Image
from provenance import commit, machine
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from dfkd.methods.memory import Pool, Shard
from dfkd.methods.shape import ImageShape
from dfkd.orchestrator.clusters import ray_cluster
from dfkd.orchestrator.commons import OthersShards
from dfkd.orchestrator.keepers import ShardFacts
from dfkd.orchestrator.pool_service import Address, Keepers, PoolPlan, pool_service

SIDE = 32
SHAPE = ImageShape(3, SIDE, SIDE)
BATCH = 512
ROUND = 256  # images of a shard, as a round of synthesis makes them
CLASSES = 10
LARGE = 16_000_000 // (3 * SIDE * SIDE) + 1  # images of a shard of 16 MB
WARM = 3  # large shards that are added before the clock starts
PENDING = 500  # small shards that a keeper is told of before it is asked something
PACE = (0.1, 0.5)  # seconds between two draws of a trial in company
TOGETHER = 8  # of which start at once: Ray complains of more
ADDERS = 4  # of which one adds
RELATIONS = {">=": operator.ge, "<": operator.lt}
CALLS = 30  # in a crowd
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table: what was measured how often."""

    what: str
    unit: str
    values: Sequence[float]
    aim: tuple[str, float] | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self) -> str:
        """As Markdown, with the aim and whether the median reaches it."""
        low, high = np.percentile(self.values, [10, 90])
        aimed, reached = "", ""
        if self.aim is not None:
            relation, bound = self.aim
            aimed = f"{relation} {bound:g}"
            reached = "yes" if RELATIONS[relation](self.median, bound) else "**no**"
        spread = f"{shown(low)} to {shown(high)}" if len(self.values) > 1 else ""
        cells = (self.what, shown(self.median), self.unit, spread, len(self.values), aimed, reached)
        return f"| {' | '.join(map(str, cells))} |"


def shown(value: float) -> str:
    """A figure with as many digits as say something."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_480, help=f"a multiple of {ROUND}")
    parser.add_argument("--batches", type=int, default=100, help="of an epoch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--adds", type=int, default=30)
    parser.add_argument("--crowd", type=int, default=10_000, help="very small shards at a keeper")
    parser.add_argument("--trials", type=int, default=64, help="in company")
    parser.add_argument("--shards", type=int, default=400, help="that lie there for company")
    parser.add_argument("--seconds", type=float, default=10.0, help="of company, per repeat")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}, commit {commit()}; {vars(options)}\n")
    images, labels = pictures(options.images)
    figures = [reading_files(images, labels, options)]  # before Ray: its workers are forked
    with ray_cluster("local"):
        figures += sampling(images, labels, options, figures[0].median)
        figures += [*adding(options), crowded(options)]
        found, told = company(options)
    print("| | median | | 10th to 90th percentile | n | aimed at | reached |")
    print("|---|--:|---|--:|--:|--:|---|")
    print("\n".join(figure.row() for figure in (*figures, *found)))
    print(f"\n{told}")


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Images of soft patches with a little grain, which PNG compresses as it does photographs."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 8, 8, generator=rng)
    soft = F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    grain = 0.02 * torch.randn(soft.shape, generator=rng)
    images = ((soft + grain).clamp(0, 1) * 255).round().to(torch.uint8)
    return images, torch.arange(count) % CLASSES


@contextmanager
def fresh_pool() -> Iterator[Address]:
    """Keepers that hold nothing yet."""
    with pool_service(PoolPlan(mode="teacher")) as service:
        assert service is not None, "there is a plan"
        yield service.address


def known(address: Address) -> tuple[Keepers, str]:
    """A way to the keepers that has found them already, and the node of the first."""
    keepers = Keepers(address)
    return keepers, keepers.nodes()[0]


# Sampling


def reading_files(images: Tensor, labels: Tensor, options: argparse.Namespace) -> Figure:
    """The images as PNG files, in passes of a DataLoader."""
    rates = []
    with tempfile.TemporaryDirectory(prefix="dfkd-bench-") as folder:
        for label in range(CLASSES):
            Path(folder, str(label)).mkdir()
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            picture.save(Path(folder, str(int(label)), f"{number:06d}.png"))
        loader = DataLoader(
            ImageFolder(folder, ToTensor()),
            batch_size=BATCH,
            shuffle=True,
            num_workers=2,
            persistent_workers=True,
        )
        for repeat in range(options.repeats + 1):
            start = time.perf_counter()
            seen = sum(len(batch) for batch, _ in loader)
            if repeat:
                rates.append(seen / (time.perf_counter() - start))
        del loader
    return Figure("PNG folder, DataLoader of 2 workers", "images/s", rates)


def sampling(
    images: Tensor, labels: Tensor, options: argparse.Namespace, files: float
) -> list[Figure]:
    """An epoch from the shared pool, and one from a tensor; `files` is the rate to compare with."""
    count = options.batches * BATCH
    gathered, drawn, sampled, both = [], [], [], []
    with fresh_pool() as address:
        keepers, home = known(address)
        rounds = zip(images.split(ROUND), labels.split(ROUND), strict=True)
        shards = [Shard(*some) for some in rounds]
        OthersShards(keepers, "maker").add(shards, [0.0] * len(shards), 0)
        assert len(keepers.ask(home, "shards")) == len(shards)
        for repeat in range(options.repeats):
            gathered.append(count / gathering(images, labels, options.batches))
            draw, sample = epoch_of_trial(keepers, f"trial {repeat}", options)
            drawn.append(len(images) / draw)
            sampled.append(count / sample)
            both.append(count / (draw + sample))
    shares = [one / other for one, other in zip(both, gathered, strict=True)]
    return [
        Figure("tensor in memory, plain gather", "images/s", gathered),
        Figure(f"shared pool: drawing {len(images):,} images", "images/s", drawn),
        Figure(f"shared pool: sampling {options.batches} batches", "images/s", sampled),
        Figure("shared pool: both, images sampled", "images/s", both),
        Figure("both, of the PNG folder", "times", [rate / files for rate in both], (">=", 10)),
        Figure("both, of the plain gather", "times", shares, (">=", 0.5)),
    ]


def gathering(images: Tensor, labels: Tensor, batches: int) -> float:
    """Seconds for batches of floats, and their labels, by indexing a tensor."""
    rng = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    for _ in range(batches):
        index = torch.randint(len(images), (BATCH,), generator=rng)
        _ = images[index].float() / 255, labels[index]
    return time.perf_counter() - start


def epoch_of_trial(
    keepers: Keepers, trial: str, options: argparse.Namespace
) -> tuple[float, float]:
    """Seconds to draw all there is into a new pool, and to sample an epoch's batches from it."""
    others = OthersShards(keepers, trial)
    rng = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    pool = Pool(SHAPE, 0, CPU)
    for shard in others.draw(options.images, pool.sizes, 0):
        pool.add(shard, rng)
    between = time.perf_counter()
    assert len(pool) == options.images
    for _ in range(options.batches):
        pool.sample(BATCH, rng)
    return between - start, time.perf_counter() - between


# Adding


def adding(options: argparse.Namespace) -> list[Figure]:
    """Shards of 16 MB, one after the other: by the keeper alone, and as a trial adds them."""
    asked, waited, lay = [], [], []
    with fresh_pool() as address:
        keepers, home = known(address)
        others = OthersShards(keepers, "adder")
        labels = torch.arange(LARGE) % CLASSES
        for number in range(WARM + options.adds):
            images = torch.full((LARGE, 3, SIDE, SIDE), number % 256, dtype=torch.uint8)
            about = facts("asker", number, LARGE)
            start = time.perf_counter()
            kept = keepers.ask(home, "add", about, images.numpy(), labels.numpy())
            asked.append(time.perf_counter() - start)
            start = time.perf_counter()
            others.add([Shard(images, labels)], [0.0], 0)
            waited.append(time.perf_counter() - start)
            there = keepers.ask(home, "shards")  # answered after all that this process told it
            lay.append(time.perf_counter() - start)
            assert kept and len(there) >= 2
    aim = ("<", 40.0)
    return [
        milliseconds("adding 16 MB: a keeper's `add`, acknowledged", asked[WARM:], aim),
        milliseconds("adding 16 MB: `OthersShards.add`, until it is there", lay[WARM:], aim),
        milliseconds("of that, what the trial waits", waited[WARM:]),
    ]


def facts(trial: str, number: int, images: int) -> ShardFacts:
    """Of a shard that needs no digest."""
    return ShardFacts(
        key=f"{trial} {number}", trial=trial, epoch=0, images=images, size=(SIDE, SIDE), loss=0.0
    )


def milliseconds(
    what: str, seconds: Sequence[float], aim: tuple[str, float] | None = None
) -> Figure:
    """A figure of times."""
    return Figure(what, "ms", [1000 * value for value in seconds], aim)


# Company


def crowded(options: argparse.Namespace) -> Figure:
    """Sample calls of a new trial each, for one shard among very many."""
    image, label = np.zeros((1, 3, SIDE, SIDE), np.uint8), np.zeros(1, np.int64)
    took = []
    with fresh_pool() as address:
        keepers, home = known(address)
        for number in range(options.crowd):
            keepers.tell(home, "add", facts("filler", number, 1), image, label)
            if number % PENDING == 0:
                keepers.ask(home, "counts")
        there = keepers.ask(home, "counts").kept
        for number in range(CALLS):
            start = time.perf_counter()
            keepers.ask(home, "sample", f"trial {number}", 1, [(SIDE, SIDE)])
            took.append(time.perf_counter() - start)
    return milliseconds(f"a sample call for one of {there:,} very small shards", took)


class SmallTrial:
    """An actor that draws shards, and may add some; imports no torch."""

    def __init__(self, address: Address, number: int) -> None:
        self._keepers, self._home = known(address)
        self._number = number
        rng = np.random.default_rng(number)
        self._images = rng.integers(0, 256, (ROUND, 3, SIDE, SIDE), dtype=np.uint8)
        self._labels = rng.integers(0, CLASSES, ROUND)

    def memory(self) -> float:
        """Bytes that are this process's own, or its share; fails if torch was imported."""
        assert "torch" not in sys.modules
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))

    def live(self, name: str, seconds: float) -> list[tuple[float, float]]:
        """Draw at its pace for some seconds: how long each sample call took, and the whole draw."""
        trial = f"{name} {self._number}"
        pace = random.Random(self._number)
        found = []
        time.sleep(pace.uniform(0, PACE[1]))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.perf_counter()
            there = self._keepers.ask(self._home, "sample", trial, 2 * ROUND, [(SIDE, SIDE)])
            asked = time.perf_counter() - start
            arrays = [ray.get(list(references)) for _, references in there]
            found.append((asked, time.perf_counter() - start))
            del arrays
            if self._number % ADDERS == ADDERS - 1:
                about = facts(trial, len(found), ROUND)
                self._keepers.tell(self._home, "add", about, self._images, self._labels)
            time.sleep(pace.uniform(*PACE))
        return found


def company(options: argparse.Namespace) -> tuple[list[Figure], str]:
    """Sample calls of one trial alone, and of many at a time."""
    alone: list[tuple[float, float]] = []
    together: list[tuple[float, float]] = []
    added = []
    with fresh_pool() as address:
        keepers, home = known(address)
        filler = SmallTrial(address, 0)
        for number in range(options.shards):
            about = facts("filler", number, ROUND)
            keepers.ask(home, "add", about, filler._images, filler._labels)
        actor: Any = ray.remote(num_cpus=0)(SmallTrial)
        trials: list[Any] = []
        memory: list[float] = []
        for first in range(0, options.trials, TOGETHER):
            numbers = range(first, min(first + TOGETHER, options.trials))
            trials += [actor.remote(address, number) for number in numbers]
            memory += ray.get([trial.memory.remote() for trial in trials[first:]])
        ray.get(trials[0].live.remote("first", 1.0))
        for repeat in range(options.repeats):
            one = ray.get(trials[0].live.remote(f"alone {repeat}", options.seconds))
            lives = [trial.live.remote(f"in company {repeat}", options.seconds) for trial in trials]
            many = [call for calls in ray.get(lives) for call in calls]
            asked = [statistics.median(call for call, _ in calls) for calls in (one, many)]
            added.append(asked[1] - asked[0])
            alone += one
            together += many
        counts = keepers.ask(home, "counts")
        for trial in trials:
            ray.kill(trial)
    name = f"of {options.trials} trials"
    told = (
        f"company: {statistics.median(memory) / 1e6:.0f} MB per trial; at the end {counts.kept} "
        f"shards there, {counts.hits} drawn, {counts.evictions} given up, {counts.misses} draws "
        "that did not get all they asked for"
    )
    return [
        milliseconds("a sample call, one trial alone", [call for call, _ in alone]),
        milliseconds(f"a sample call, {name}", [call for call, _ in together]),
        milliseconds(f"added to its median by company {name}", added, ("<", 5.0)),
        milliseconds("the whole draw, one trial alone", [draw for _, draw in alone]),
        milliseconds(f"the whole draw, {name}", [draw for _, draw in together]),
    ], told


if __name__ == "__main__":
    main()
