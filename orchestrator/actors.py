"""The small actor of a trial of several workers. Imports nothing heavy: it is a process.

The trial's driver owns its Exchange, and it is gone with it. What trials share is with the keepers
(keepers.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

TURNS_KEPT = 2


def beside_me(actor: Any) -> Any:
    """An actor class to be started on the caller's node, so that only both are lost together."""
    here = ray.get_runtime_context().get_node_id()
    return actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))


Turn = tuple[str, int]  # which start of the workers, and how many times they have shared


class Mailroom:
    """Collects one turn's shards from every worker and answers when all are there."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._turns: dict[Turn, dict[int, list[Any]]] = {}
        self._complete: dict[Turn, asyncio.Event] = {}
        self._failure: str | None = None

    async def give(self, turn: Turn, rank: int, *arrays: Any) -> None:
        """Take images and labels, alternating, of a worker's new shards."""
        given = self._turns.setdefault(turn, {})
        given[rank] = [ray.put(array) for array in arrays]
        if len(given) == self._workers:
            self._event(turn).set()
        for old in list(self._turns)[:-TURNS_KEPT]:
            del self._turns[old]
            self._complete.pop(old, None)

    async def take(self, turn: Turn) -> list[Any]:
        """References to everybody's arrays of a turn, by rank, once all have given."""
        await self._event(turn).wait()
        given = self._turns[turn]
        return [reference for rank in sorted(given) for reference in given[rank]]

    async def fail(self, reason: str) -> None:
        """Note why the trial cannot go on."""
        self._failure = self._failure or reason

    async def failure(self) -> str | None:
        """The reason noted, or None."""
        return self._failure

    def _event(self, turn: Turn) -> asyncio.Event:
        return self._complete.setdefault(turn, asyncio.Event())


Exchange: Any = ray.remote(num_cpus=0)(Mailroom)
