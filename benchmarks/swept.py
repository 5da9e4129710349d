"""A sweep of digits in a process of its own, and what it left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder

DFKD = [sys.executable, "-m", "dfkd.cli"]
CLOCK = ("seconds", "began", "ended")


@dataclass(frozen=True, slots=True)
class Swept:
    """One sweep."""

    rows: list[dict[str, Any]]
    """One per trial and epoch."""
    best: dict[str, Any]
    seconds: float
    told: str
    """What it said of sharing."""
    run: Run

    def total(self, *activities: str, before: int | None = None) -> float:
        """Seconds of these activities over all trials, in the epochs up to `before`."""
        rows = [row for row in self.rows if before is None or row["epoch"] <= before]
        return sum(row.get(f"seconds_{what}") or 0.0 for row in rows for what in activities)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows without what the clock says, by trial and epoch."""
        rows = sorted(self.rows, key=lambda row: (row["trial"], row["epoch"]))
        return [{k: v for k, v in row.items() if not k.startswith(CLOCK)} for row in rows]

    def trials(self) -> dict[str, list[dict[str, Any]]]:
        """The rows of each trial, by epoch."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(self.rows, key=lambda row: (row["trial"], row["epoch"])):
            found.setdefault(row["trial"], []).append(row)
        return found


def sweep(folder: str, name: str, plan: Mapping[str, Any], *more: str) -> Swept:
    """Every trial to its last epoch, recipes at random, no control; `plan` gives options values."""
    command = [*DFKD, "sweep", "digits", "--storage", folder, "--name", name, "--json"]
    command += ["--scheduler", "fifo", "--search", "random", "--no-control", *more]
    command += [word for key, value in plan.items() for word in (f"--{key}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    told = [e["text"] for e in events if e["event"] == "remark" and "shared" in e["text"]]
    run = Run(Folder.of(f"{folder}/{name}"))
    rows = pq.read_table(f"{folder}/{name}/results.parquet").to_pylist()
    return Swept(rows, events[-1], events[-1]["seconds"], " ".join(told), run)
