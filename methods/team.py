"""The workers of one trial, as its method sees them.

A method synthesizes its portion of the shards, shares them, and distills from everybody's. Alone,
all of this is nothing. Who is behind a larger team is the orchestrator's affair.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn

from dfkd.methods.memory import Shard


class Team(Protocol):
    """The workers that run one trial together; every member calls the same methods in turn."""

    rank: int
    size: int

    def share(self, shards: list[Shard]) -> list[Shard]:
        """Everybody's new shards, in the same order on every worker."""
        ...

    def total(self, values: Tensor) -> Tensor:
        """The elementwise sum of `values` over the workers."""
        ...

    def gather(self, state: Any) -> list[Any]:
        """Every worker's `state`, by rank, on the first worker; an empty list on the others."""
        ...

    def parallel(self, network: nn.Module) -> nn.Module:
        """`network` with gradients averaged over the workers."""
        ...

    def apart(self, network: nn.Module) -> AbstractContextManager[object]:
        """Passes of such a network whose gradients wait for the next ones to be averaged."""
        ...


class Alone:
    """A team of one."""

    rank = 0
    size = 1

    def share(self, shards: list[Shard]) -> list[Shard]:
        return shards

    def total(self, values: Tensor) -> Tensor:
        return values

    def gather(self, state: Any) -> list[Any]:
        return [state]

    def parallel(self, network: nn.Module) -> nn.Module:
        return network

    def apart(self, network: nn.Module) -> AbstractContextManager[object]:
        return nullcontext()


def portion(rounds: int, done: int, team: Team) -> int:
    """How many of the next `rounds` rounds are this worker's, when `done` were dealt before.

    Rounds are dealt one by one over the workers, so that none gets more than one round ahead.
    """
    return sum((done + i) % team.size == team.rank for i in range(rounds))
