"""What sharing synthesis saves: sweeps over the student's settings, `exact` against `off`.

    python benchmarks/sharing.py             16 trials of NAYER and of DeepInversion, each both ways
    python benchmarks/sharing.py --trials 3 --epochs 4 --warmup 2 --concurrent 1    does it run?

NAYER has its paper's proportions (a warm-up of 20 epochs of 10 rounds, then 2 rounds per epoch), in
120 epochs instead of 400, on digits; DeepInversion never asks the student, so all of it is shared.
Prints Markdown. The saving that is possible: of the trials that differ in nothing that synthesis
reads, all but one need not make it. Close everything else: on busy cores the times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from provenance import commit, machine

DFKD = [sys.executable, "-m", "dfkd.cli"]
SEARCHED = ("student_lr", "temperature")
CLOCK = ("seconds", "began", "ended")
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


@dataclass(frozen=True, slots=True)
class Swept:
    """One sweep."""

    rows: list[dict[str, Any]]
    """One per trial and epoch."""
    best: dict[str, Any]
    seconds: float
    told: str
    """What it said of sharing."""

    def total(self, *activities: str, before: int | None = None) -> float:
        """Seconds of these activities over all trials, in the epochs up to `before`."""
        rows = [row for row in self.rows if before is None or row["epoch"] <= before]
        return sum(row.get(f"seconds_{what}") or 0.0 for row in rows for what in activities)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows without what the clock says, by trial and epoch."""
        rows = sorted(self.rows, key=lambda row: (row["trial"], row["epoch"]))
        return [{k: v for k, v in row.items() if not k.startswith(CLOCK)} for row in rows]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--concurrent", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfkd-bench-") as folder:
        os.environ.setdefault("DFKD_CACHE", f"{folder}/cache")
        os.environ["RAY_AUTH_MODE"] = "disabled"
        print(f"{machine()}, commit {commit()}; {vars(options)}\n")
        for method in RECIPES:
            off, exact = (run(folder, method, way, options) for way in ("off", "exact"))
            report(method, off, exact, options)


def run(folder: str, method: str, sharing: str, options: argparse.Namespace) -> Swept:
    """One sweep, in a process of its own."""
    name = f"{method}-{sharing}"
    command = [*DFKD, "sweep", "digits", "--storage", folder, "--name", name, "--json"]
    command += ["--method", method, "--share-pools", sharing, "--no-control"]
    command += ["--scheduler", "fifo", "--search", "random", "--epochs", str(options.epochs)]
    command += ["--trials", str(options.trials), "--concurrent", str(options.concurrent)]
    for key, value in {**RECIPES[method], "warmup": options.warmup}.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    told = [e["text"] for e in events if e["event"] == "remark" and "shared" in e["text"]]
    rows = pq.read_table(f"{folder}/{name}/results.parquet").to_pylist()
    return Swept(rows, events[-1], events[-1]["seconds"], " ".join(told))


def report(method: str, off: Swept, exact: Swept, options: argparse.Namespace) -> None:
    """A table of both sweeps, and what was saved of what could be."""
    common = None if method == "deepinversion" else options.warmup
    redundant = off.total("synthesis", before=common) * (1 - 1 / options.trials)
    saved = off.total("synthesis", "waiting") - exact.total("synthesis", "waiting")
    print(f"{method}, {options.trials} trials of {options.epochs} epochs over {SEARCHED}\n")
    columns = ("synthesis", "waiting", "distillation", "evaluation")
    print(f"| sharing | {', s | '.join(columns)}, s | sweep, s |\n|---|" + "--:|" * 5)
    for name, swept in (("off", off), ("exact", exact)):
        sums = " | ".join(f"{swept.total(column):.1f}" for column in columns)
        print(f"| {name} | {sums} | {swept.seconds:.1f} |")
    print(f"\n{exact.told or 'nothing was said of sharing'}")
    share = f"{100 * saved / redundant:.0f} %" if redundant else "none"
    print(f"to save: {redundant:.1f} s of synthesis; saved, less waiting: {saved:.1f} s, {share}")
    taken = re.search(r"(\d+) epochs taken", exact.told)
    shareable = (common or options.epochs) * (options.trials - 1)
    print(f"epochs taken: {taken[1] if taken else 0} of {shareable} that could be")
    print(f"the same metrics in every epoch: {off.metrics() == exact.metrics()}")
    same = [off.best[key] == exact.best[key] for key in ("best", "recipe", "accuracy")]
    print(f"the same recipe selected: {all(same)}\n")


if __name__ == "__main__":
    main()
