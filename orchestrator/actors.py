"""The small actors of sweeps and trials. Imports nothing heavy: each is a process.

A trial of several workers has one Exchange, owned by its driver and gone with it; a sweep of such
trials has one Registry, and a sweep whose trials share their synthesis one Shelving.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
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


class PlacementBook:
    """Which placement groups the workers of each trial were started in."""

    def __init__(self) -> None:
        self._groups: dict[str, set[str]] = {}

    def add(self, trial: str, group: str) -> None:
        self._groups.setdefault(trial, set()).add(group)

    def of(self, trial: str) -> list[str]:
        return sorted(self._groups.get(trial, ()))


Registry: Any = ray.remote(num_cpus=0)(PlacementBook)


@dataclass(slots=True)
class Counts:
    """What happened at a shelf so far."""

    hits: int = 0
    misses: int = 0
    bundles: int = 0
    """That lie there now."""
    bytes: int = 0
    """Of them."""
    evictions: int = 0


class Shelves:
    """Bundles by key, up to `budget` bytes; those that nobody took for longest give way.

    The object store pushes nobody back when it is full (it spills to disk), hence the budget. The
    arrays are put into it here, so that they outlive the worker that made them.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[str, tuple[str, int, list[Any]]] = OrderedDict()
        self._counts = Counts()

    def take(self, key: str) -> tuple[str, list[Any]] | None:
        """The seal and references to the arrays of a bundle; None where there is none."""
        if key not in self._kept:
            self._counts.misses += 1
            return None
        self._counts.hits += 1
        self._kept.move_to_end(key)
        seal, _, references = self._kept[key]
        return seal, references

    def give(self, key: str, seal: str, *arrays: Any) -> None:
        """Keep a bundle, in the place of one with the same key, unless it exceeds the budget."""
        size = sum(array.nbytes for array in arrays)
        self._drop(key)
        if size > self._budget:
            return
        while self._counts.bytes + size > self._budget:
            self._drop(next(iter(self._kept)))
            self._counts.evictions += 1
        self._kept[key] = seal, size, [ray.put(array) for array in arrays]
        self._counts.bytes += size
        self._counts.bundles += 1

    def counts(self) -> Counts:
        """What happened so far."""
        return self._counts

    def _drop(self, key: str) -> None:
        if key in self._kept:
            self._counts.bytes -= self._kept.pop(key)[1]
            self._counts.bundles -= 1


Shelving: Any = ray.remote(num_cpus=0)(Shelves)
