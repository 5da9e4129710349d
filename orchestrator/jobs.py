"""A sweep as a job on a cluster: what is sent, what can be known of it, and how it is followed."""

from __future__ import annotations

import queue
import re
import shlex
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dfkd.methods.errors import DfkdError

if TYPE_CHECKING:  # a job is sent without torch and Ray
    from dfkd.orchestrator.replaying import Replay
    from dfkd.orchestrator.watching import Watcher

Status = Literal["pending", "running", "succeeded", "failed", "stopped"]

ENDED = ("succeeded", "failed", "stopped")
TICK = 0.25  # seconds between two drawings of a table
LOOK = 10.0  # seconds without news before the job itself is looked at, or its wait is told again
PATIENCE = 120.0  # seconds in which a cluster that was there may fail to answer
SETTLING = 60.0  # seconds that a job may take to be over after its last line


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A sweep to run on a cluster."""

    name: str
    storage: str
    """Where its run folder lies: a URI, or a path that the cluster's nodes share."""
    arguments: tuple[str, ...]
    """What follows `dfkd sweep`: the task, then its options.

    Without --name, --storage, --address and --json, which are the backend's to say.
    """


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job is doing."""

    status: Status
    told: str = ""
    """What it waits for, or why it failed; for people."""
    outcome: Mapping[str, Any] | None = None
    """What a followed job's sweep ended with (catalog.outcome); None if it said nothing of it."""


def fresh_name(task: str) -> str:
    """A name for a sweep of `task` (a name, or a .yaml file) that every cluster takes.

    Letters, digits and dashes, a letter first, at most 43 characters.
    """
    stem = re.sub(r"[^a-z0-9]+", "-", PurePath(task).stem.lower()).strip("-")
    stem = stem if stem[:1].isalpha() else f"task-{stem}"
    return f"{stem[:27].rstrip('-')}-{time.strftime('%Y%m%d-%H%M%S')}"


class Backend(Protocol):
    """Somewhere that jobs run. Every call is bounded in time, but `logs`; all raise DfkdError."""

    def submit(self, job: Job) -> None:
        """Send the job; raises ConfigError if one of its name runs already."""
        ...

    def state(self, name: str) -> JobState:
        """How the latest job called `name` is doing; raises ConfigError where there is none."""
        ...

    def logs(self, name: str) -> Iterator[str]:
        """What its driver prints, line by line from the first one, until the job ends; blocks."""
        ...

    def stop(self, name: str) -> None:
        """End it; its sweep can be resumed."""
        ...

    def leave(self, name: str) -> str:
        """What to type to come back to it, and to end it, as `farewell` says it."""
        ...


def farewell(name: str, options: Sequence[str]) -> str:
    """How to come back to a job, and how to end it; `options` lead there.

    >>> farewell("mine", ["--namespace", "ml"]).partition("; end")[0]
    'mine goes on; watch it: dfkd status mine --watch --namespace ml'
    """
    watch = shlex.join(["dfkd", "status", name, "--watch", *options])
    stop = shlex.join(["dfkd", "stop", name, *options])
    return f"{name} goes on; watch it: {watch}; end it: {stop}"


class Detached(KeyboardInterrupt):
    """Ctrl-C while a job was followed, which goes on; says how to come back."""


def follow(backend: Backend, name: str, watcher: Watcher) -> JobState:
    """Tell the watcher what happens in a job from its beginning, until it ends; returns that.

    Ctrl-C raises Detached, and the job goes on. Raises DfkdError if the cluster does not answer for
    two minutes.
    """
    from dfkd.orchestrator.replaying import Replay

    replay = Replay(watcher)
    looks = _Looks(backend, name, watcher)
    try:
        _wait_for_start(looks, name, watcher)
        _replay_lines(looks, replay, watcher)
        state = _settled(looks)
    except KeyboardInterrupt:
        raise Detached(backend.leave(name)) from None
    finally:
        replay.close()
    told = "" if state.status == "succeeded" else "\n".join(replay.complaints) or state.told
    return replace(state, told=told, outcome=replay.outcome)


class _Looks:
    """Looks at a job's state, with patience for a cluster that does not answer for a while."""

    def __init__(self, backend: Backend, name: str, watcher: Watcher) -> None:
        self.backend = backend
        self.name = name
        self._watcher = watcher
        self._answered = time.monotonic()
        self._seen = False

    def look(self) -> JobState | None:
        """The state; None if it cannot be had at the moment."""
        try:
            state = self.backend.state(self.name)
        except DfkdError as error:
            silent = time.monotonic() - self._answered
            if not self._seen or silent > PATIENCE:
                raise
            self._watcher.say(f"no news for {silent:.0f} s: {error}")
            return None
        self._answered, self._seen = time.monotonic(), True
        return state


def _wait_for_start(looks: _Looks, name: str, watcher: Watcher) -> None:
    """Return once the job is more than pending; say every ten seconds what it waits for."""
    told = float("-inf")
    while (state := looks.look()) is None or state.status == "pending":
        if state is not None and time.monotonic() - told >= LOOK:
            watcher.say(f"{name} has not started yet: {state.told or 'it waits for its turn'}")
            told = time.monotonic()
        watcher.tick()
        time.sleep(1.0)


def _replay_lines(looks: _Looks, replay: Replay, watcher: Watcher) -> None:
    """Until the lines end, or none has come for a while after the job's end."""
    lines: queue.Queue[str | BaseException | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(looks.backend, looks.name, lines), daemon=True)
    reader.start()
    heard = ticked = time.monotonic()
    was_over = False
    while True:
        try:
            line = lines.get(timeout=TICK)
        except queue.Empty:
            line = ""
        now = time.monotonic()
        if line is None:
            return
        if isinstance(line, BaseException):
            raise line
        if line:
            replay.line(line)
            heard, was_over = now, False
        if now - ticked >= TICK:
            watcher.tick()
            ticked = now
        if now - heard > LOOK:
            state = looks.look()
            is_over = state is not None and state.status in ENDED
            if is_over and was_over:  # its lines may have been on their way at the first look
                return
            heard, was_over = now, is_over


def _read(backend: Backend, name: str, lines: queue.Queue[str | BaseException | None]) -> None:
    """A thread's work: the job's lines, as the last one None or why there are no more."""
    try:
        for line in backend.logs(name):
            lines.put(line)
    except BaseException as error:
        lines.put(error)
    else:
        lines.put(None)


def _settled(looks: _Looks) -> JobState:
    """The state in which the job ended; raises DfkdError if it does not."""
    deadline = time.monotonic() + SETTLING
    while (state := looks.look()) is None or state.status not in ENDED:
        if time.monotonic() > deadline:
            raise DfkdError(
                f"{looks.name} prints nothing more and has not ended for {SETTLING:.0f} s; it may "
                "have to be stopped"
            )
        time.sleep(0.5)
    return state
