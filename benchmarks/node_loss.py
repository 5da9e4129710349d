"""Do sweeps survive the loss of a node, and how soon do trials go on? Real raylets, killed with -9.

    python benchmarks/node_loss.py              ten sweeps in a row, about half an hour on two cores
    python benchmarks/node_loss.py --sweeps 1 --trials 2 --epochs 8 --within 10    does it run?

A cluster of three raylets on this machine: the head, where the driver is and no trial, and two
nodes of two CPUs. Sweeps of digits, trials of one worker and of two in turn, each sweep hurt once:
at a random moment up to `--within` seconds after its first trial was started, the raylet of one of
the two nodes is killed. Where trials need its room (those of two workers), and for every other
sweep besides, a new node joins a few seconds later. In the end there are two again.

Recovery is what passes from the moment at which Ray holds the node for dead until the lost trial's
first step. How long Ray takes to notice is a setting of the cluster (health_check_period_ms and
health_check_failure_threshold; 3 s and 5 by default, here half a second and 4), and told apart; so
is a trial that no longer had anything to do, or that was on the other node.

Prints Markdown; fails if any trial does not finish, or if a sweep takes longer than `--limit`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from provenance import commit, machine
from ray.util import placement_group_table
from tables import row

from dfkd.orchestrator import sweep
from dfkd.orchestrator.clusters import ray_cluster
from dfkd.orchestrator.watching import Silent

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from raylets import Cluster, cluster, wait_for

CPUS = 2  # of a node
REPLACED_AFTER = 3.0  # seconds
HEAD = ["sweep", "trial", "killed after, s", "while", "noticed after, s", "new node after, s"]
HEAD.append("going on after, s")  # these two from the moment at which it was noticed


@dataclass(slots=True)
class Watch(Silent):
    """When what happened, by `time.time()`."""

    begun: threading.Event = field(default_factory=threading.Event)
    epochs: dict[str, int] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    again: dict[str, float] = field(default_factory=dict)

    def say(self, text: str) -> None:
        trial, _, rest = text.partition(" ")
        if rest.startswith("lost its worker"):
            self.lost.setdefault(trial, time.time())

    def trial_started(self, spec: Any) -> None:
        self.epochs.setdefault(spec.id, 0)
        self.begun.set()

    def epoch_ended(self, spec: Any, row: Any) -> None:
        self.epochs[spec.id] = row["epoch"]
        if row["began"] > self.lost.get(spec.id, float("inf")):
            self.again.setdefault(spec.id, row["began"])


@dataclass(frozen=True, slots=True)
class Hurt:
    """What was done to a sweep."""

    after: float
    """Seconds from its first trial's start."""
    at: float
    noticed: float
    joined: float | None
    """When the new node was there, if one was to join."""
    epochs: dict[str, int]
    """Of the trials at that moment."""


class Saboteur(threading.Thread):
    """Kills one node once a sweep runs, and has another one join."""

    def __init__(self, cluster: Cluster, watch: Watch, rng: random.Random, within: float) -> None:
        super().__init__(daemon=True)
        self.cluster, self.watch = cluster, watch
        self.after = rng.uniform(0, within)
        self.victim = rng.choice(cluster.nodes)
        self.replaced = True
        self.hurt: Hurt | None = None

    def run(self) -> None:
        self.watch.begun.wait()
        time.sleep(self.after)
        epochs, at = dict(self.watch.epochs), time.time()
        here = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        self.cluster.nodes.remove(self.victim)
        groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
        self.victim.kill()
        wait_for(2)
        gone = here - {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for group in groups:  # whose driver may be on the other node: Train starts them again
            if group["name"] and gone & set(group["bundles_to_node_id"].values()):
                self.watch.lost.setdefault(group["name"].split("/")[1], at)
        self.hurt = Hurt(self.after, at, time.time(), None, epochs)
        if self.replaced:
            time.sleep(max(0.0, at + REPLACED_AFTER - time.time()))
            self.cluster.add(CPUS)
            wait_for(3)
            self.hurt = replace(self.hurt, joined=time.time())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=10)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--within", type=float, default=50.0, help="seconds")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for a sweep")
    parser.add_argument("--workers", type=int, choices=(1, 2), help="without it, in turn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    print(f"{machine()}, commit {commit()}; {vars(options)}\n", flush=True)
    print(f"{row(HEAD)}\n{row(['--:'] * len(HEAD))}", flush=True)
    noticed: list[float] = []
    recovered: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="dfkd-bench-") as folder, three_raylets() as cluster:
        for number in range(options.sweeps):
            workers = options.workers or 1 + number % 2
            watch = Watch()
            saboteur = Saboteur(cluster, watch, rng, options.within)
            saboteur.replaced = workers > 1 or number % 4 == 0
            seconds = one_sweep(folder, number, workers, saboteur, options)
            hurt = saboteur.hurt
            if hurt is None:
                print(row([str(number), "", f"{saboteur.after:.1f}", "it had ended", "", "", ""]))
                continue
            noticed.append(hurt.noticed - hurt.at)
            recovered[workers] += told(number, workers, watch, hurt, seconds)
    print()
    for name, seconds_ in (
        ("Ray notices", noticed),
        ("one worker", recovered[1]),
        ("two workers", recovered[2]),
    ):
        print(f"{name}: {spread(seconds_)}")


def one_sweep(
    folder: str, number: int, workers: int, saboteur: Saboteur, options: argparse.Namespace
) -> float:
    """How long it took; fails unless all of its trials finished in time."""
    start = time.monotonic()
    alarm = threading.Timer(options.limit, hang, (number, options.limit))
    alarm.start()
    saboteur.start()
    result = sweep(
        "digits",
        trials=options.trials,
        epochs=options.epochs,
        concurrent=2,
        workers=workers,
        cpus_per_worker=1.0 if workers == 1 else 0.99,
        scheduler="fifo",
        control=False,
        storage=folder,
        name=f"sweep{number}",
        watcher=saboteur.watch,
    )
    alarm.cancel()
    saboteur.join(options.within + 60)
    if len(saboteur.cluster.nodes) < 2:
        saboteur.cluster.add(CPUS)
    wait_for(3)
    for record in result.records:
        epochs = [line["epoch"] for line in record.rows]
        if record.outcome != "finished" or epochs != list(range(1, options.epochs + 1)):
            raise SystemExit(f"sweep {number}: {record.spec.id} {record.outcome} {record.reason}")
    if not result.verdicts:
        raise SystemExit(f"sweep {number}: no verdicts")
    return time.monotonic() - start


def hang(number: int, limit: float) -> None:
    """End the process, wherever it waits."""
    print(f"sweep {number} did not end within {limit:.0f} s", flush=True)
    os._exit(1)


def told(number: int, workers: int, watch: Watch, hurt: Hurt, seconds: float) -> list[float]:
    """Print a row per lost trial; returns the seconds that each took to go on."""
    name, after = f"{number} ({workers} w., {seconds:.0f} s)", f"{hurt.after:.1f}"
    notice = f"{hurt.noticed - hurt.at:.1f}"
    joined = "" if hurt.joined is None else f"{hurt.joined - hurt.noticed:.1f}"
    found = []
    for trial in watch.lost:
        epoch = hurt.epochs.get(trial, 0)
        while_ = f"epoch {epoch + 1}" if epoch else "its start or warm-up"
        going = ""
        if trial in watch.again:
            found.append(watch.again[trial] - hurt.noticed)
            going = f"{found[-1]:.1f}"
        print(row([name, trial, after, while_, notice, joined, going]), flush=True)
    if not watch.lost:
        print(row([name, "none lost", after, "", notice, joined, ""]), flush=True)
    return found


def spread(seconds: list[float]) -> str:
    """Minimum, median and maximum."""
    if not seconds:
        return "n = 0"
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    return f"min {low:.1f} s, median {middle:.1f} s, max {high:.1f} s, n = {len(seconds)}"


@contextlib.contextmanager
def three_raylets() -> Iterator[Cluster]:
    """The head and two nodes, and this process joined to them."""
    with cluster() as found:
        found.wait_for_head()
        with ray_cluster(found.address):
            for _ in range(2):
                found.add(CPUS)
            wait_for(3)
            yield found


if __name__ == "__main__":
    main()
