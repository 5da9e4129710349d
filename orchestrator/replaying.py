"""What `dfkd sweep --json` printed elsewhere, as the events that it was printed for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from dfkd.orchestrator.runs import Outcome, TrialRecord
from dfkd.orchestrator.specs import TrialSpec
from dfkd.orchestrator.trials import Row
from dfkd.orchestrator.watching import SweepView, Watcher


class Unreadable(Exception):
    """An event lacks something, as those of another version of dfkd may."""


class Event(dict[str, Any]):
    """An event's facts."""

    def __missing__(self, key: str) -> Any:
        raise Unreadable(key)


COMPLAINTS = ("error: ", "failed: ")  # how the command line begins what is wrong
COMPLAINTS_KEPT = 10


class Replay:
    """Turns the lines that a watcher of JSON lines printed into events for another watcher.

    Lines may come twice, as after a reconnection, or torn: both do no harm. A line that is no event
    is told as a remark.
    """

    def __init__(self, watcher: Watcher) -> None:
        self.outcome: dict[str, Any] | None = None
        """How the sweep ended (catalog.outcome), once it has."""
        self.complaints: list[str] = []
        """What the command line said was wrong."""
        self._watcher = watcher
        self._seen: set[int] = set()
        self._specs: dict[str, TrialSpec] = {}
        self._rows: dict[str, dict[int, Row]] = {}
        self._view: SweepView | None = None
        self._known: list[TrialRecord] = []
        self._awaited = 0
        self._is_running = False
        self._events: dict[str, Callable[[Event], None]] = {
            "remark": lambda event: self._watcher.say(plain(event["text"])),
            "sweep_started": self._sweep_started,
            "trial_known": self._trial_known,
            "trial_started": self._trial_started,
            "epoch": self._epoch,
            "trial_ended": self._trial_ended,
            "sweep_ended": self._sweep_ended,
        }

    def line(self, line: str) -> None:
        """Take in the next line."""
        line = line.strip()
        if not line or self._is_seen(line):
            return
        event = event_in(line)
        if event is None:
            self._remark(plain(line))
            return
        if event["event"] != "trial_known":
            self._start()
        take_in = self._events.get(event["event"])
        if take_in is not None:
            with contextlib.suppress(Unreadable):
                take_in(event)

    def close(self) -> None:
        """No more lines come."""
        self._start()
        if self._is_running:
            self._is_running = False
            self._watcher.sweep_ended()

    def _is_seen(self, line: str) -> bool:
        """Whether the line came before; events hold their time, so that no two are alike."""
        mark = hash(line)
        if mark in self._seen:
            return True
        self._seen.add(mark)
        return False

    def _remark(self, text: str) -> None:
        if text.startswith('{"'):
            return  # a part of an event
        if text.startswith(COMPLAINTS):
            self.complaints = [*self.complaints, text][-COMPLAINTS_KEPT:]
        self._watcher.say(text)

    def _sweep_started(self, event: Event) -> None:
        view = SweepView(
            name=event["name"],
            task=event["task"],
            score=event["score"],
            trials=event["trials"],
            epochs=event["epochs"],
            teacher_accuracy=event["teacher_accuracy"],
            began=event["time"],
        )
        awaited = event["records"]
        self.close()  # another driver's, which was lost
        self._view, self._known, self._awaited, self.outcome = view, [], awaited, None
        if not awaited:
            self._start()

    def _trial_known(self, event: Event) -> None:
        spec = self._learn(event)
        self._rows[spec.id] = {row["epoch"]: row for row in event["rows"]}
        self._known.append(self._record(spec, event["outcome"], event["reason"]))
        if len(self._known) == self._awaited:
            self._start()

    def _start(self) -> None:
        """Announce the sweep, if that waits for the trials that were known before."""
        if self._view is not None:
            view, self._view = self._view, None
            self._is_running = True
            self._watcher.sweep_started(view, self._known)

    def _trial_started(self, event: Event) -> None:
        self._watcher.trial_started(self._learn(event))

    def _epoch(self, event: Event) -> None:
        row = {key: value for key, value in event.items() if key not in ("event", "time")}
        spec = self._spec(event["trial"])
        self._rows.setdefault(spec.id, {})[event["epoch"]] = row
        self._watcher.epoch_ended(spec, row)

    def _trial_ended(self, event: Event) -> None:
        spec = self._spec(event["trial"])
        rows = self._rows.setdefault(spec.id, {})
        for row in (event["best"], event["last"]):  # their reports may have been lost
            if row is not None:
                rows[row["epoch"]] = row
        self._watcher.trial_ended(self._record(spec, event["outcome"], event["reason"]))

    def _sweep_ended(self, event: Event) -> None:
        self.outcome = {key: value for key, value in event.items() if key != "event"}
        self.close()

    def _spec(self, id: str) -> TrialSpec:
        """A trial that an event has described; its line may have been torn."""
        if id not in self._specs:
            raise Unreadable(id)
        return self._specs[id]

    def _learn(self, event: Event) -> TrialSpec:
        """The trial that an event describes, kept for those that only name it."""
        keys = ("method", "recipe", "searched", "student", "epochs", "seed")
        spec = TrialSpec.from_json({"id": event["trial"], **{key: event[key] for key in keys}})
        self._specs[spec.id] = spec
        return spec

    def _record(self, spec: TrialSpec, outcome: Outcome | None, reason: str) -> TrialRecord:
        rows = self._rows.get(spec.id, {})
        ordered = tuple(rows[epoch] for epoch in sorted(rows))
        return TrialRecord(spec=spec, rows=ordered, outcome=outcome, reason=reason)


def event_in(line: str) -> Event | None:
    """The event in a line; None where there is none.

    >>> event_in('{"event": "remark", "time": 1.0, "text": "hello"}')["text"]
    'hello'
    >>> event_in("INFO connecting"), event_in('{"event": "rem'), event_in('{"a": 1}')
    (None, None, None)
    """
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_event = isinstance(value, dict) and isinstance(value.get("event"), str)
    return Event(value) if is_event else None


def plain(text: str) -> str:
    """The text without what could command a terminal.

    >>> plain("a\\x1b[2Jb")
    'a[2Jb'
    """
    return "".join(letter for letter in text if letter.isprintable() or letter == "\n")
