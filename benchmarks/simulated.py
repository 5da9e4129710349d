"""Many nodes on one machine, and trials that sleep instead of computing."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.cluster_utils import Cluster

STORE = 80_000_000  # bytes of each node's object store, which stays empty
QUIET_CORES = 0.5  # below this many busy cores a cluster has started
LOOK = 1.0  # seconds between looks at the machine's memory


SIMULATED = {  # what a machine that is all nodes at once is spared
    "REPORTER_UPDATE_INTERVAL_MS": "600000",  # each node looks at all of the machine's processes
    "RAY_worker_niceness": "0",  # else trials give way to 16 nodes' housekeeping
}


@contextmanager
def cluster(nodes: int, gpus: int) -> Iterator[str]:
    """The address of a head without room for trials and `nodes` nodes, of `gpus` GPUs and CPUs."""
    os.environ.update(SIMULATED)
    found = Cluster()
    try:
        common = {"object_store_memory": STORE, "include_dashboard": False}
        found.add_node(num_cpus=0, **common)
        for _ in range(nodes):
            found.add_node(wait=False, num_cpus=gpus, num_gpus=gpus, **common)
        found.wait_for_nodes(timeout=300)
        settle()
        yield found.address
    finally:
        found.shutdown()


def settle(patience: float = 60.0) -> None:
    """Wait until the nodes' own processes are up: until the machine has been idle for a while."""
    deadline, quiet = time.monotonic() + patience, 0
    while quiet < 3 and time.monotonic() < deadline:
        before = busy_seconds()
        time.sleep(LOOK)
        quiet = quiet + 1 if busy_seconds() - before < QUIET_CORES * LOOK else 0


def busy_seconds() -> float:
    """Seconds that all cores together have computed since the machine started."""
    user, nice, system, *_ = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system))) / os.sysconf("SC_CLK_TCK")


def sleeper(seconds: float, epochs: int) -> type[tune.Trainable]:
    """A trainable in the place of TrialActor: its trials take `seconds` and import no torch.

    It is made here so that it travels as it is, and workers need not find this module.
    """

    class Sleeper(tune.Trainable):
        @classmethod
        def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
            return tune.PlacementGroupFactory([{"CPU": config["cpus"], "GPU": config["gpus"]}])

        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, config: dict[str, Any]) -> bool:
            self.id, self.epoch = config["id"], 0
            return True

        def step(self) -> dict[str, Any]:
            began = time.time()
            if not self.epoch:
                self.began = began
            self.epoch += 1
            due = self.began + seconds * self.epoch / epochs  # late once, it catches up
            time.sleep(max(0.0, due - began))
            row = plausible_row(self.id, self.epoch, began)
            done = self.epoch == epochs
            return {"row": row, "epoch": self.epoch, "score": row["score"], "done": done}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return

        def load_checkpoint(self, checkpoint: Any) -> None:
            return

    return Sleeper


def plausible_row(id: str, epoch: int, began: float) -> dict[str, Any]:
    """As many figures as a trial of NAYER on digits reports of an epoch."""
    rng = random.Random(f"{id} {epoch}")
    score = 1 - math.exp(-epoch / 10) * rng.uniform(0.5, 1.0)
    figures = ("accuracy", "fidelity", "agreement", "spread", "kd_loss", "bn_loss", "one_hot_loss")
    times = ("synthesis", "distillation", "evaluation", "waiting")
    now = time.time()
    return {
        "trial": id,
        "method": "nayer",
        "epoch": epoch,
        **{name: rng.random() for name in figures},
        "adversarial_loss": rng.random(),
        "pool_images": 64 * epoch,
        "images_made": 64.0,
        "images_drawn": 0.0,
        "score": score,
        **{f"seconds_{name}": (now - began) * rng.random() / 4 for name in times},
        "began": began,
        "ended": now,
        "seconds": now - began,
    }


@contextmanager
def memory_taken() -> Iterator[list[int]]:
    """While the block runs: how many bytes more than before it the machine had in use, at most."""
    before, most, over = available(), [0], threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            most[0] = max(most[0], before - available())

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield most
    finally:
        over.set()
        watch.join()


def available() -> int:
    """Bytes of memory that the machine could still give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return 1024 * int(line.split()[1])
    raise OSError("Linux tells no MemAvailable")


def tree_of(folder: Path) -> tuple[int, int]:
    """How many files lie in a folder and below, and their bytes."""
    sizes = [
        os.path.getsize(os.path.join(above, name))
        for above, _, names in os.walk(folder)
        for name in names
    ]
    return len(sizes), sum(sizes)
