"""What can go wrong, as types: the command line maps them to exit statuses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DfkdError(Exception):
    """Base of every error that dfkd raises on purpose; its text is fit for a user (exit 1)."""


class ConfigError(DfkdError):
    """The user's mistake, found before anything ran; holds all problems at once (exit 2)."""

    def __init__(self, *problems: str) -> None:
        if not problems:
            raise ValueError("a ConfigError needs at least one problem")
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, ...]]:
        return type(self), self.problems


class TrialFailed(DfkdError):
    """One trial cannot go on (a loss is not finite, the disk is full); the sweep does."""


class SweepFailed(DfkdError):
    """The sweep as a whole cannot go on (resources never came, every trial failed)."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A sentence for an unknown name, with the nearest known one.

    >>> unknown("method", "nayr", ["noise", "nayer"])
    "no method 'nayr'. Did you mean 'nayer'? Known: nayer, noise"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"no {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}"
