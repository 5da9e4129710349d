"""ImageNet in small with a real teacher on a CPU, end to end: how long each stage takes.

    python benchmarks/imagenet_small.py [--trials N] [--method nayer] [--cpus-per-worker C]

docs/imagenet-small.yaml takes the very path of the task imagenet: `dfkd sweep` on Ray, pools, jury,
export, `dfkd evaluate` on the twenty labeled photos that foolbox holds; with all thousand classes,
an EfficientNet-Lite0, images of 64 to 112 pixels and few steps. Uses a cache and a storage folder
of its own. Prints Markdown.
"""

from __future__ import annotations

from pathlib import Path

from end_to_end import Plan, run

PLAN = Plan(
    title=__doc__.splitlines()[0],
    task=Path(__file__).parents[1] / "docs" / "imagenet-small.yaml",
    data_set="imagenet",
    method="muse",
)

if __name__ == "__main__":
    run(PLAN)
