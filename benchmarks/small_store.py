"""Does a sweep end well whose pool is larger than Ray's object store?

    python benchmarks/small_store.py    on four idle cores
    python benchmarks/small_store.py --trials 4 --epochs 4    does it run?

32 trials of NAYER on digits draw from each other's shards (`--share-pools teacher`) with a
budget of 1 GB per node in an object store of 200 MB. Rounds are large and short, so that the images
are many and worth little: what is looked at is whether every trial ends, what was spilled, and how
long a draw takes. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from typing import Any

import ray
from provenance import commit, machine

from dfkd.orchestrator import sweep
from dfkd.orchestrator.clusters import QUIET

STORE, BUDGET = 200_000_000, "1GB"
LARGE_AND_SHORT: dict[str, Any] = {
    "batch_size": 20000,
    "synthesis_steps": 1,
    "warmup": 2,
    "warmup_rounds": 8,
    "rounds": 8,
    "kd_steps": 5,
}


def main() -> None:
    """Sweep, and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    os.environ.update(QUIET)
    ray.init(
        address="local",
        object_store_memory=STORE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    with tempfile.TemporaryDirectory(prefix="dfkd-bench-") as folder:
        result = sweep(
            "digits",
            trials=options.trials,
            epochs=options.epochs,
            share_pools="teacher",
            pool_budget=BUDGET,
            settings=LARGE_AND_SHORT,
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
    print(f"{machine()}, commit {commit()}; {vars(options)}, store {STORE / 1e6:.0f} MB\n")
    print("| | |\n|---|--:|")
    print(f"| trials that ran to their end | {outcomes.count('finished')} of {len(outcomes)} |")
    print(f"| images made | {sum(row['images_made'] for row in rows):,.0f} |")
    print(f"| images drawn from other trials | {sum(row['images_drawn'] for row in rows):,.0f} |")
    print(f"| shards kept at the end | {shared['kept']}, {shared['bytes'] / 1e6:.0f} MB |")
    print(f"| shards given up, refused | {shared['evictions']}, {shared['refusals']} |")
    print(f"| of the store on disk at the end | {shared['spilled'] / 1e6:.0f} MB |")
    print(f"| waiting per epoch, median | {statistics.median(waits):.3f} s |")
    print(f"| waiting per epoch, longest | {waits[-1]:.2f} s |")
    print(f"| the sweep | {result.seconds:.0f} s |")


if __name__ == "__main__":
    main()
