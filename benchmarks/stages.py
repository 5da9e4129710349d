"""A sweep as a user starts it, in a process of its own, and how long each of its stages took."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from dfkd.orchestrator.runs import RESULTS, Run
from dfkd.orchestrator.storage import Folder

DFKD = [sys.executable, "-m", "dfkd.cli"]
ACTIVITIES = ("synthesis", "distillation", "evaluation", "waiting")
MAKING, READY = "making the jury's control pools", "Ray is up"
JUDGING, EXPORTING = "the jury judges", "exporting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A sweep that ended."""

    run: Run
    outcome: dict[str, Any]
    """Its last event."""
    stages: dict[str, float]
    """Wall seconds of each, in their order."""
    activities: dict[str, float]
    """Seconds of all trials together."""
    epochs: int
    """Of all trials together."""

    @property
    def seconds(self) -> float:
        """From the command to its end."""
        return sum(self.stages.values())

    def lines(self) -> list[str]:
        """Rows of a table: a stage and its seconds."""
        rows = [f"| {stage} | {seconds:.1f} |" for stage, seconds in self.stages.items()]
        rows += [
            f"| of the trials, all together: {activity} | {seconds:.1f} |"
            for activity, seconds in self.activities.items()
        ]
        return [*rows, f"| **the sweep** | **{self.seconds:.1f}** |"]


def sweep(task: str, storage: str, name: str, *options: str) -> Staged:
    """Run `dfkd sweep`; what it says beside its events goes to standard error."""
    command = [*DFKD, "sweep", task, "--storage", storage, "--name", name, "--json", *options]
    began = time.time()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        events = []
        for line in process.stdout:
            events.append({"time": time.time(), **json.loads(line)})
            if events[-1]["event"] == "remark":
                print(f"{time.time() - began:6.1f} s  {events[-1]['text']}", file=sys.stderr)
    ended = time.time()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    run = Run(Folder.of(f"{storage}/{name}"))
    rows = pq.read_table(f"{storage}/{name}/{RESULTS}").to_pylist()
    spent = {a: sum(row.get(f"seconds_{a}") or 0.0 for row in rows) for a in ACTIVITIES}
    return Staged(
        run=run,
        outcome=events[-1],
        stages=stages(events, began, ended),
        activities=spent,
        epochs=len(rows),
    )


def stages(events: Sequence[dict[str, Any]], began: float, ended: float) -> dict[str, float]:
    """Seconds between the events that bound the stages; a stage that was left out took none."""
    marks = {
        "imports, task and teacher checked": _at(events, "sweep_started"),
        "Ray": _at(events, "remark", MAKING) or _at(events, "remark", READY),
        "the control pools": _at(events, "remark", READY),
        "the trials": _at(events, "remark", JUDGING),
        "the jury": _at(events, "remark", EXPORTING),
        "export, and Ray's end": ended,
    }
    found, last = {}, began
    for stage, mark in marks.items():
        found[stage] = max(0.0, (mark or last) - last)
        last = max(last, mark or last)
    return found


def _at(events: Sequence[dict[str, Any]], kind: str, text: str = "") -> float | None:
    """When the first such event happened."""
    times = (e["time"] for e in events if e["event"] == kind and text in e.get("text", ""))
    return next(times, None)


def evaluate(name: str, storage: str) -> tuple[dict[str, Any], float]:
    """What `dfkd evaluate` says of a sweep's student, and the seconds that it took."""
    began = time.time()
    command = [*DFKD, "evaluate", name, "--storage", storage, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), time.time() - began
