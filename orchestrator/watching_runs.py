"""Following a sweep by its run folder alone, from anywhere that can read it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from dfkd.orchestrator.board import view_of
from dfkd.orchestrator.catalog import state
from dfkd.orchestrator.runs import RECIPE, RESULT, Run, TrialRecord
from dfkd.orchestrator.specs import TrialSpec
from dfkd.orchestrator.watching import Watcher

NEAR, FAR = 1.0, 5.0  # seconds between two looks at a folder, on a local disk and elsewhere
TICK = 0.25


def watch(run: Run, watcher: Watcher, every: float | None = None) -> str:
    """Tell the watcher what happens in a run folder until no more does; returns its state then.

    Looks every `every` seconds, by default one, and five where the folder is not on a local disk:
    at sweep.json, the list of trials, and two files of each trial that has not ended. Raises
    ConfigError where there is no sweep.
    """
    pause = every or (FAR if run.folder.local is None else NEAR)
    glances = Glances(run)
    found = state(run)
    view = view_of(run)
    if found == "running":
        view = replace(view, began=run.facts()["created"])
    watcher.sweep_started(view, list(glances.look().values()))
    try:
        for trial in glances.records.values():
            if trial.outcome is None and found == "running":
                watcher.trial_started(trial.spec)
        while found == "running":
            _wait(pause, watcher)
            found = state(run)  # before the trials: what it ended with is then seen below
            before = dict(glances.records)
            for id, record in glances.look().items():
                _tell(before.get(id), record, watcher)
    finally:
        watcher.sweep_ended()
    return found


@dataclass(slots=True)
class Glances:
    """What was seen of a run's trials; those that have ended are not looked at again."""

    run: Run
    records: dict[str, TrialRecord] = field(default_factory=dict)

    def look(self) -> dict[str, TrialRecord]:
        """Every trial as it is now, by id."""
        for id in self.run.folder.child("trials").folders():
            known = self.records.get(id)
            if known is None or known.outcome is None:
                found = self._read(id, known)
                if found is not None:
                    self.records[id] = found
        return self.records

    def _read(self, id: str, known: TrialRecord | None) -> TrialRecord | None:
        folder = self.run.trial_folder(id)
        if known is None:
            recipe = folder.read_json(RECIPE)
            if recipe is None:
                return None  # it is being written
            known = TrialRecord(spec=TrialSpec.from_json(recipe))
        result = folder.read_json(RESULT)
        if result is None:
            return replace(known, rows=tuple(self.run.history(id)))
        ended = {key: result[key] for key in ("outcome", "reason")}
        return replace(known, rows=tuple(result["rows"]), **ended)


def _tell(before: TrialRecord | None, record: TrialRecord, watcher: Watcher) -> None:
    """The events between two looks at a trial."""
    if record == before:
        return
    if before is None:
        watcher.trial_started(record.spec)
    seen = before.rows[-1]["epoch"] if before is not None and before.rows else 0
    for row in record.rows:
        if row["epoch"] > seen:
            watcher.epoch_ended(record.spec, row)
    if record.outcome is not None:
        watcher.trial_ended(record)


def _wait(pause: float, watcher: Watcher) -> None:
    until = time.monotonic() + pause
    while (left := until - time.monotonic()) > 0:
        watcher.tick()
        time.sleep(min(TICK, left))
