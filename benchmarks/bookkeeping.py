"""What the driver spends on each event of a sweep, as trials become more: no Ray, no trials."""

from __future__ import annotations

import io
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console
from simulated import plausible_row, tree_of
from watched_memory import memory

from dfkd.orchestrator.board import Board
from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.requests import SweepRequest, resolve
from dfkd.orchestrator.room import Room
from dfkd.orchestrator.runs import RESULTS, Run
from dfkd.orchestrator.schedulers import make_scheduler
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.tuning import Bookkeeper, Ledger, TuneSearch
from dfkd.orchestrator.watching import SweepView

AT_ONCE = 64


class Enough(Room):
    """Room without a cluster."""

    def slots(self) -> int:
        return AT_ONCE + 1

    def ask_for(self, trials: int) -> None: ...


def kept(folder: Path, trials: int, epochs: int) -> dict[str, Any]:
    """The events of a sweep, AT_ONCE trials at a time, told to the product's bookkeeping.

    By kind of event: `late`, the mean milliseconds of its last tenth, when most is known, and
    `seconds`, the sum.
    """
    request = SweepRequest(task="digits", trials=trials, epochs=epochs, select="accuracy")
    spec = resolve(request, lambda text: None)
    run = Run(Folder.of(str(folder)))
    run.create(spec, request=request.remembered(), command="")
    ledger = Ledger.of(run)
    room = Enough(Resources())
    search = TuneSearch(spec, ledger, trials, {}, room)
    board = Board(Console(file=io.StringIO(), force_terminal=True, width=120, height=50))
    view = SweepView(
        name="s",
        task="digits",
        score="accuracy",
        trials=trials,
        epochs=epochs,
        teacher_accuracy=None,
    )
    board.sweep_started(view, [])
    keeper = Bookkeeper(ledger, search, board, None, room)
    schedulers = {name: make_scheduler(name, epochs) for name in ("asha", "median")}
    spent: dict[str, list[float]] = {}

    def timed(name: str, act: Callable[..., Any], *arguments: Any) -> Any:
        began = time.perf_counter()
        found = act(*arguments)
        spent.setdefault(name, []).append(1000 * (time.perf_counter() - began))
        return found

    everyone: list[Any] = []
    for wave in waves(search.left()):
        running = []
        for number in wave:
            name = f"tune-{number}"
            trial = Stand(timed("propose", search.suggest, name), name)
            for scheduler in schedulers.values():
                scheduler.on_trial_add(None, trial)
            keeper.on_trial_start(0, everyone, trial)
            running.append(trial)
        everyone += running
        for epoch, trial in itertools.product(range(1, epochs + 1), running):
            row = plausible_row(trial.config["id"], epoch, time.time())
            result = {"row": row, "epoch": epoch, "score": row["score"]}
            timed("epoch", keeper.on_trial_result, 0, everyone, trial, result)
            timed("step", keeper.on_step_end, 0, everyone)
            for name in schedulers.keys() - trial.stopped_by:
                decision = timed(name, schedulers[name].on_trial_result, None, trial, result)
                trial.stopped_by |= {name} if decision == "STOP" else set()
        for trial in running:
            trial.status = "TERMINATED"
            timed("end", keeper.on_trial_complete, 0, everyone, trial)
            search.on_trial_complete(trial.name)
    board.sweep_ended()
    timed("results.parquet", run.write_results, list(ledger.records.values()))
    files, size = tree_of(folder)
    late = {name: statistics.fmean(each[-(len(each) // 10 + 1) :]) for name, each in spent.items()}
    return {
        "late": late,
        "seconds": {name: sum(each) / 1000 for name, each in spent.items()},
        "files": files,
        "bytes": size,
        "memory": memory()["VmHWM"],
        "results_bytes": os.path.getsize(folder / RESULTS),
    }


def waves(trials: int) -> Iterator[range]:
    """Trials by number, AT_ONCE at a time."""
    for start in range(0, trials, AT_ONCE):
        yield range(start, min(start + AT_ONCE, trials))


class Stand(SimpleNamespace):
    """What bookkeeping and schedulers see of one of Tune's trials."""

    def __init__(self, config: dict[str, Any], name: str) -> None:
        named = {"name": name, "trial_id": config["id"]}
        super().__init__(config=config, status="RUNNING", stopped_by=set(), **named)

    def __hash__(self) -> int:
        return hash(self.trial_id)
