r"""One sweep of sleeping trials on a cluster that is up, in a process of its own, for scale.py.

    python benchmarks/simulated_sweep.py ADDRESS FOLDER \
        '{"trials": 16, "seconds": 5, "epochs": 5, "began": 1795313824}'

Everything is the product's own but the trainable: the search, the bookkeeping, the run folder, the
scheduler and the board. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any, ClassVar

from rich.console import Console
from simulated import sleeper, tree_of
from watched_memory import memory

from dfkd.orchestrator import tuning
from dfkd.orchestrator.board import Board
from dfkd.orchestrator.clusters import ray_cluster
from dfkd.orchestrator.requests import SweepRequest, resolve
from dfkd.orchestrator.room import Room
from dfkd.orchestrator.runs import RESULTS, Run, TrialRecord
from dfkd.orchestrator.specs import TrialSpec
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.watching import SweepView


class Timed(Board):
    """The board, drawn for nobody, and when trials started."""

    def __init__(self) -> None:
        nowhere = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
        super().__init__(Console(file=nowhere, force_terminal=True, width=120, height=50))
        self.started: list[float] = []

    def trial_started(self, spec: TrialSpec) -> None:
        self.started.append(time.time())
        super().trial_started(spec)


class TimedRun(Run):
    """A run folder that knows how long it took to write results.parquet."""

    writing: ClassVar[list[float]] = []

    def write_results(self, records: Any) -> None:
        began = time.perf_counter()
        super().write_results(records)
        self.writing.append(time.perf_counter() - began)


def main() -> None:
    """Sweep, and print what it took."""
    address, folder, order = sys.argv[1:]
    plan = json.loads(order)
    request = SweepRequest(
        task="digits",
        trials=plan["trials"],
        epochs=plan["epochs"],
        gpus_per_worker=1.0,
        scheduler="fifo",
        select="accuracy",
        share_pools="off",
        control=False,
    )
    watcher = Timed()
    spec = resolve(request, watcher.say)
    run = TimedRun(Folder.of(folder))
    tuning.TrialActor = sleeper(plan["seconds"], plan["epochs"])  # type: ignore[assignment, misc]
    with run.lock(), ray_cluster(address):
        run.create(spec, request=request.remembered(), command="")
        ledger = tuning.Ledger.of(run)
        room = Room(request.resources())
        at_once = room.wait(watcher.say)
        view = SweepView(
            name=run.name,
            task="digits",
            score="accuracy",
            trials=request.trials,
            epochs=spec.epochs,
            teacher_accuracy=None,
        )
        watcher.sweep_started(view, [])
        called, cpu = time.time(), cpu_seconds()
        tuning.run_trials(spec, ledger, watcher, request, room=room, pools=None)
        ended, spent = time.time(), cpu_seconds() - cpu
        watcher.sweep_ended()
    run.write_results(list(ledger.records.values()))
    starts = sorted(watcher.started)
    cycles = [later - start for start, later in zip(starts, starts[at_once:], strict=False)]
    files, size = tree_of(run.folder.local)  # type: ignore[arg-type]
    found = {
        "at_once": at_once,
        "command_to_call": called - plan["began"],
        "call_to_first_start": starts[0] - called,
        "call_to_first_wave": starts[: min(at_once, request.trials)][-1] - called,
        "wall": ended - called,
        "cycles": cycles,
        "turnovers": turnovers(starts, list(ledger.records.values()), at_once),
        "cpu": spent,
        "memory": memory()["VmHWM"],
        "files": files,
        "bytes": size,
        "results_bytes": len(run.folder.read(RESULTS) or b""),
        "results_writes": len(run.writing),
        "results_seconds": sum(run.writing),
        "events": sum(len(record.rows) for record in ledger.records.values()),
        "outcomes": sorted({str(record.outcome) for record in ledger.records.values()}),
    }
    print(json.dumps(found))


def cpu_seconds() -> float:
    """Of this process and all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def turnovers(starts: list[float], records: list[TrialRecord], at_once: int) -> list[float]:
    """Seconds from the end of a trial's last epoch to the start of the one that follows it."""
    ends = sorted(record.rows[-1]["ended"] for record in records)
    return [start - end for end, start in zip(ends, starts[at_once:], strict=False)]


if __name__ == "__main__":
    main()
