"""What happens in a sweep, as events; whoever watches gets them one by one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from dfkd.orchestrator.model_card import brief
from dfkd.orchestrator.runs import TrialRecord
from dfkd.orchestrator.specs import TrialSpec, trial_as_json
from dfkd.orchestrator.trials import Row

KEPT = ("epoch", "score", "seconds", "kd_loss", "fidelity", "agreement", "accuracy")
"""Of the rows of trials from before: what watchers show, and what says which row is the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepView:
    """A sweep as a watcher may show it."""

    name: str
    task: str
    score: str
    trials: int
    """How many were asked for, the control not counted."""
    epochs: int
    teacher_accuracy: float | None
    began: float | None = None
    """When it was started, in seconds since 1970; None: just now."""


class Watcher(Protocol):
    """Is told what happens; must be quick, since the sweep waits meanwhile."""

    def say(self, text: str) -> None:
        """A remark for people: what is waited for, what was resumed."""
        ...

    def sweep_started(self, sweep: SweepView, known: Sequence[TrialRecord]) -> None:
        """The sweep begins, with what is known of its trials from before."""
        ...

    def trial_started(self, spec: TrialSpec) -> None: ...

    def epoch_ended(self, spec: TrialSpec, row: Row) -> None: ...

    def trial_ended(self, record: TrialRecord) -> None: ...

    def tick(self) -> None:
        """Called a few times a second."""
        ...

    def sweep_ended(self) -> None:
        """No more events come; called also when the sweep fails or is interrupted."""
        ...


class Silent:
    """Watches nothing."""

    def say(self, text: str) -> None: ...

    def sweep_started(self, sweep: SweepView, known: Sequence[TrialRecord]) -> None: ...

    def trial_started(self, spec: TrialSpec) -> None: ...

    def epoch_ended(self, spec: TrialSpec, row: Row) -> None: ...

    def trial_ended(self, record: TrialRecord) -> None: ...

    def tick(self) -> None: ...

    def sweep_ended(self) -> None: ...


@dataclass(slots=True)
class JsonLines(Silent):
    """One JSON object per event on standard output, and nothing else there.

    They tell all that a watcher elsewhere needs (replaying.py).
    """

    out: TextIO = field(default_factory=lambda: sys.stdout)

    def emit(self, event: str, **facts: Any) -> None:
        print(json.dumps({"event": event, "time": time.time(), **facts}), file=self.out, flush=True)

    def say(self, text: str) -> None:
        self.emit("remark", text=text)

    def sweep_started(self, sweep: SweepView, known: Sequence[TrialRecord]) -> None:
        ended = [record.spec.id for record in known if record.outcome]
        self.emit(
            "sweep_started",
            name=sweep.name,
            trials=sweep.trials,
            known=ended,
            records=len(known),
            task=sweep.task,
            score=sweep.score,
            epochs=sweep.epochs,
            teacher_accuracy=sweep.teacher_accuracy,
        )
        for record in known:  # an event each: all in one would be a line of megabytes
            rows = [{key: row[key] for key in KEPT if key in row} for row in record.rows]
            self.emit(
                "trial_known",
                **_trial(record.spec),
                outcome=record.outcome,
                reason=record.reason,
                rows=rows,
            )

    def trial_started(self, spec: TrialSpec) -> None:
        self.emit("trial_started", **_trial(spec))

    def epoch_ended(self, spec: TrialSpec, row: Row) -> None:
        self.emit("epoch", **row)

    def trial_ended(self, record: TrialRecord) -> None:
        self.emit(
            "trial_ended",
            trial=record.spec.id,
            outcome=record.outcome,
            reason=record.reason,
            best=record.best,
            last=record.rows[-1] if record.rows else None,
        )


def _trial(spec: TrialSpec) -> dict[str, Any]:
    """A trial as JSON values."""
    facts = trial_as_json(spec)
    return {"trial": facts.pop("id"), **facts}


@dataclass(slots=True)
class PlainLines(Silent):
    """One short line per trial started and ended, for logs and pipes."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    score: str = "score"

    def say(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def sweep_started(self, sweep: SweepView, known: Sequence[TrialRecord]) -> None:
        self.score = sweep.score
        ended = sum(record.outcome is not None for record in known)
        tail = f", {ended} ended before" if ended else ""
        self.say(f"sweep {sweep.name}: {sweep.trials} trials of {sweep.epochs} epochs{tail}")

    def trial_started(self, spec: TrialSpec) -> None:
        searched = " ".join(f"{key}={brief(spec.recipe[key])}" for key in spec.searched)
        self.say(f"{spec.id} {spec.method} started {searched}".rstrip())

    def trial_ended(self, record: TrialRecord) -> None:
        best = record.best
        if record.outcome == "failed" or best is None:
            self.say(f"{record.spec.id} failed: {record.reason}")
            return
        self.say(
            f"{record.spec.id} {record.outcome} after epoch {record.rows[-1]['epoch']}: "
            f"{self.score} {best['score']:.4f} at epoch {best['epoch']}"
        )
