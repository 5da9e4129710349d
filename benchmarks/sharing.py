"""What sharing synthesis saves: sweeps of digits with `exact` and `teacher` against `off`.

    python benchmarks/sharing.py                   both parts, about half an hour on four idle cores
    python benchmarks/sharing.py --part teacher    one of them, about ten minutes
    python benchmarks/sharing.py --trials 3 --epochs 5 --warmup 2 --concurrent 1 --seeds 1
                                                   does it run?

exact: 16 trials of NAYER and of DeepInversion over the student's settings, each both ways. NAYER
has its paper's proportions (a warm-up of 20 epochs of 10 rounds, then 2 rounds per epoch), in 120
epochs instead of 400; DeepInversion never asks the student, so all of it is shared. The saving that
is possible: of the trials that differ in nothing that synthesis reads, all but one need not make
it. Trials at the same time wait for the one that makes what all of them need, and compute nothing
meanwhile: what is saved is told with and without that.

teacher: NAYER as the task has it, random search over all of its settings, several seeds, each both
ways: see teacher_pools.py.

Prints Markdown. Close everything else: on busy cores the times mean nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from typing import Any

from provenance import commit, machine
from swept import Swept, sweep
from teacher_pools import compare

SEARCHED = ("student_lr", "temperature")
RECIPES: dict[str, dict[str, Any]] = {  # what a sweep of digits would search besides, fixed
    "nayer": {
        "warmup_rounds": 10,
        "rounds": 2,
        "reinit_every": 1,
        "bn_weight": 10.0,
        "adversarial_weight": 1.33,
        "one_hot_weight": 0.5,
        "generator_lr": 4e-3,
    },
    "deepinversion": {"bn_weight": 3.0, "tv_weight": 1e-3, "pixel_lr": 0.1},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("exact", "teacher"), help="without it, both")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, help="without it, 120 for exact, 30 for teacher")
    parser.add_argument("--warmup", type=int, default=20, help="of exact")
    parser.add_argument("--concurrent", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3, help="of teacher")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfkd-bench-") as folder:
        os.environ.setdefault("DFKD_CACHE", f"{folder}/cache")
        os.environ["RAY_AUTH_MODE"] = "disabled"
        print(f"{machine()}, commit {commit()}; {vars(options)}\n")
        if options.part != "teacher":
            for method in RECIPES:
                off, exact = (run(folder, method, way, options) for way in ("off", "exact"))
                report(method, off, exact, options)
        if options.part != "exact":
            compare(folder, options)


def run(folder: str, method: str, sharing: str, options: argparse.Namespace) -> Swept:
    """One sweep over the student's settings."""
    fixed = {**RECIPES[method], "warmup": options.warmup}
    settings = [word for key, value in fixed.items() for word in ("--set", f"{key}={value}")]
    plan = {
        "method": method,
        "share-pools": sharing,
        "epochs": options.epochs or 120,
        "trials": options.trials,
        "concurrent": options.concurrent,
    }
    return sweep(folder, f"{method}-{sharing}", plan, *settings)


def report(method: str, off: Swept, exact: Swept, options: argparse.Namespace) -> None:
    """A table of both sweeps, and what was saved of what could be."""
    common = None if method == "deepinversion" else options.warmup
    epochs = options.epochs or 120
    redundant = off.total("synthesis", before=common) * (1 - 1 / options.trials)
    saved = off.total("synthesis") - exact.total("synthesis")
    waited = exact.total("waiting") - off.total("waiting")
    print(f"{method}, {options.trials} trials of {epochs} epochs over {SEARCHED}\n")
    columns = ("synthesis", "waiting", "distillation", "evaluation")
    print(f"| sharing | {', s | '.join(columns)}, s | sweep, s |\n|---|" + "--:|" * 5)
    for name, swept in (("off", off), ("exact", exact)):
        sums = " | ".join(f"{swept.total(column):.1f}" for column in columns)
        print(f"| {name} | {sums} | {swept.seconds:.1f} |")
    print(f"\n{exact.told or 'nothing was said of sharing'}")
    print(f"to save: {redundant:.1f} s of synthesis")
    for what, seconds in (("saved", saved), ("saved, less waiting", saved - waited)):
        share = f", {100 * seconds / redundant:.0f} %" if redundant else ""
        print(f"{what}: {seconds:.1f} s{share}")
    taken = re.search(r"(\d+) epochs taken", exact.told)
    shareable = (common or epochs) * (options.trials - 1)
    print(f"epochs taken: {taken[1] if taken else 0} of {shareable} that could be")
    print(f"the same metrics in every epoch: {off.metrics() == exact.metrics()}")
    same = [off.best[key] == exact.best[key] for key in ("best", "recipe", "accuracy")]
    print(f"the same recipe selected: {all(same)}\n")


if __name__ == "__main__":
    main()
