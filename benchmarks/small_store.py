"""Does a sweep end well whose pool is larger than Ray's object store?

    python benchmarks/small_store.py    under eight minutes on four cores
    python benchmarks/small_store.py --trials 4 --epochs 3    does it run?

32 trials draw from each other's shards (`--share-pools teacher`) with a budget of 1 GB per node in
an object store of 200 MB. Images of 3x112x112 cost next to nothing to make and are worth nothing
(large_images.py): what is looked at is whether every trial ends, what was spilled and given up, and
how long an epoch waits. Each trial has a pool of its own besides, of up to 4,000 images, in its
memory. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from typing import Any

import ray
from large_images import IMAGE, METHOD, write_task
from provenance import commit, machine
from watched_memory import highest_memory

from dfkd.orchestrator import sweep
from dfkd.orchestrator.clusters import QUIET

STORE, BUDGET = 200_000_000, "1GB"
MANY: dict[str, Any] = {"warmup": 1, "warmup_rounds": 8, "rounds": 8, "pool_capacity": 4000}


def main() -> None:
    """Sweep, and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    os.environ.update(QUIET | {"RAY_AUTH_MODE": "disabled"})
    with tempfile.TemporaryDirectory(prefix="dfkd-bench-") as folder:
        os.environ["DFKD_CACHE"] = f"{folder}/cache"
        task = write_task(folder)
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        with highest_memory() as peaks:
            result = sweep(
                task,
                methods=(METHOD,),
                trials=options.trials,
                epochs=options.epochs,
                share_pools="teacher",
                pool_budget=BUDGET,
                settings=MANY,
                scheduler="fifo",
                search="random",
                control=False,
                select="accuracy",
                storage=folder,
            )
        shared = result.run.facts()["shared"]
        ray.shutdown()
    rows = [row for record in result.records for row in record.rows]
    outcomes = [record.outcome for record in result.records]
    waits = sorted(row.get("seconds_waiting") or 0.0 for row in rows)
    made, drawn = (sum(row[f"images_{how}"] for row in rows) for how in ("made", "drawn"))
    print(f"{machine()}, commit {commit()}; {vars(options)}, store {STORE / 1e6:.0f} MB\n")
    print("| | |\n|---|--:|")
    print(f"| trials that ran to their end | {outcomes.count('finished')} of {len(outcomes)} |")
    print(f"| images made | {made:,.0f}, {made * IMAGE / 1e9:.2f} GB |")
    print(f"| images drawn from other trials | {drawn:,.0f}, {drawn * IMAGE / 1e9:.2f} GB |")
    print(f"| shards kept at the end | {shared['kept']}, {shared['bytes'] / 1e6:.0f} MB |")
    print(f"| shards given up, refused | {shared['evictions']}, {shared['refusals']} |")
    print(f"| of the store on disk at the end | {shared['spilled'] / 1e6:.0f} MB |")
    print(f"| waiting per epoch, median | {statistics.median(waits):.3f} s |")
    print(f"| waiting per epoch, longest | {waits[-1]:.2f} s |")
    print(f"| peak memory of the largest worker | {peaks['VmHWM'] / 1e9:.2f} GB |")
    print(f"| the sweep | {result.seconds:.0f} s |")


if __name__ == "__main__":
    main()
