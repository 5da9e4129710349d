"""CIFAR-10 with a real teacher on a CPU, end to end: how long it takes, and what comes of it.

    python benchmarks/cifar10.py [--trials N] [--cpus-per-worker C] [--sheet FILE.png]

docs/cifar10-keras.yaml is swept by NAYER, with the pool kept, the jury, the export and an
evaluation on the twenty labeled images that foolbox holds; then the teacher is asked what it sees
in the pool. Uses a cache and a storage folder of its own. Prints Markdown.
"""

from __future__ import annotations

from pathlib import Path

from end_to_end import Plan, run

PLAN = Plan(
    title=__doc__.splitlines()[0],
    task=Path(__file__).parents[1] / "docs" / "cifar10-keras.yaml",
    data_set="cifar10",
    method="nayer",
)

if __name__ == "__main__":
    run(PLAN)
