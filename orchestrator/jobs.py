"""A sweep as a job on a cluster: what is sent, and what can be known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Status = Literal["pending", "running", "succeeded", "failed", "stopped"]

ENDED = ("succeeded", "failed", "stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A sweep to run on a cluster."""

    name: str
    storage: str
    """Where its run folder lies: a URI, or a path that the cluster's nodes share."""
    arguments: tuple[str, ...]
    """What follows `dfkd sweep`: task and options, but --name, --storage, --address, --json."""


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job is doing."""

    status: Status
    told: str = ""
    """What it waits for, or why it failed; for people."""
    outcome: Mapping[str, Any] | None = None
    """What a followed job's sweep ended with (catalog.outcome); None if it said nothing of it."""


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
