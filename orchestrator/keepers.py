"""The keeper of one node's part of a sweep's pools. Imports nothing heavy: it is a process.

Arrays are put into the object store here, so that they outlive the worker that made them, and are
gone with the keeper or its node. The store pushes nobody back when it is full (it spills to disk),
hence a budget of bytes.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private.ray_constants import DEFAULT_OBJECT_PREFIX

POLICIES = ("append", "ring", "reservoir", "priority")
STALLED = 30.0  # seconds without a sign of progress, after which nobody waits for a trial

Policy = Literal["append", "ring", "reservoir", "priority", "least used"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """What is known of a shard without looking at it."""

    key: str
    trial: str
    epoch: int
    images: int
    size: tuple[int, int]
    """Height and width."""
    loss: float
    """Of the round that made it."""


@dataclass(slots=True)
class Counts:
    """What happened at keepers so far; those of several can be added."""

    hits: int = 0
    """Bundles that were taken, and shards that were drawn."""
    misses: int = 0
    """Times that there was nothing to be had."""
    waits: int = 0
    """Bundles that were waited for."""
    kept: int = 0
    """Bundles and shards that lie there now."""
    bytes: int = 0
    """Of them."""
    evictions: int = 0
    """Given up for others."""
    refusals: int = 0
    """Not kept."""
    spilled: int = 0
    """Bytes of the nodes' object stores that lie on disk, of whomever they are."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a Store."""

    value: Any
    size: int
    priority: float


class Store:
    """Values under keys, up to `budget` bytes. The policy says who gives way to a new one.

    `append`: nobody, the new one is refused. `ring`: the oldest. `least used`: the one that nobody
    took for longest. `priority`: those below the new one's priority, the lowest first. `reservoir`:
    such that of values of one size, each ever offered is kept with the same probability (Vitter
    1985, algorithm R).
    """

    def __init__(self, budget: int, policy: Policy, counts: Counts) -> None:
        self.budget = budget
        self.policy = policy
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._counts = counts
        self._bytes = 0
        self._offered = 0
        self._rng = random.Random(0)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        """Its keys, in the order in which they would give way, where the policy has one."""
        return iter(list(self._entries))

    def take(self, key: str) -> Any:
        """The value under a key that is there."""
        if self.policy == "least used":
            self._entries.move_to_end(key)
        return self._entries[key].value

    def put(self, key: str, size: int, make: Callable[[], Any], priority: float = 0.0) -> bool:
        """Keep a value, in the place of one with the same key; False if it was refused.

        `make` gives the value, once there is room for it.
        """
        self._drop(key)
        self._offered += 1
        victims = self._victims(size, priority)
        if victims is None:
            self._counts.refusals += 1
            return False
        for victim in victims:
            self._drop(victim)
        self._counts.evictions += len(victims)
        self._entries[key] = Entry(make(), size, priority)
        self._bytes += size
        self._counts.bytes += size
        self._counts.kept += 1
        return True

    def _victims(self, size: int, priority: float) -> list[str] | None:
        """Who has to go for a value of this size; None if it is the value itself."""
        missing = self._bytes + size - self.budget
        if size > self.budget or (missing > 0 and self.policy == "append"):
            return None
        victims: list[str] = []
        if missing <= 0:
            return victims
        for key in self._candidates(priority):
            victims.append(key)
            missing -= self._entries[key].size
            if missing <= 0:
                return victims
        return None

    def _candidates(self, priority: float) -> list[str]:
        keys = list(self)
        if self.policy == "priority":
            lower = [key for key in keys if self._entries[key].priority < priority]
            return sorted(lower, key=lambda key: self._entries[key].priority)
        if self.policy == "reservoir":
            stays = self._rng.random() * self._offered < len(keys)
            return self._rng.sample(keys, len(keys)) if stays else []
        return keys

    def _drop(self, key: str) -> None:
        if key in self._entries:
            size = self._entries.pop(key).size
            self._bytes -= size
            self._counts.bytes -= size
            self._counts.kept -= 1


class PoolKeeper:
    """Bundles that trials take instead of making them, and shards that they draw from each other.

    Nothing here blocks: a worker that is told to wait asks again.
    """

    def __init__(self, budget: int, policy: Policy, stalled: float = STALLED) -> None:
        self._counts = Counts()
        self._bundles = Store(budget, "least used", self._counts)
        self._shards = Store(budget, policy, self._counts)
        self._stalled = stalled
        self._makers: dict[str, tuple[str, float]] = {}  # of bundles: who, and the last sign
        self._waived: set[str] = set()
        self._waiting: set[tuple[str, str]] = set()
        self._drawn: dict[str, set[str]] = {}  # shards by trial
        self._rng = random.Random(0)

    # Bundles

    def take(self, key: str, who: str) -> tuple[str, list[Any]] | Literal["wait"] | None:
        """Seal and references to the arrays of a bundle; None to the one who is to make it."""
        if key in self._bundles:
            self._counts.hits += 1
            found: tuple[str, list[Any]] = self._bundles.take(key)
            return found
        now = time.monotonic()
        maker, sign = self._makers.get(key, (who, now))
        if key in self._waived or maker == who or now - sign > self._stalled:
            self._makers[key] = who, now
            self._counts.misses += 1
            return None
        self._counts.waits += (key, who) not in self._waiting
        self._waiting.add((key, who))
        return "wait"

    def proceed(self, key: str, who: str) -> None:
        """A sign that a bundle is still being made."""
        if self._makers.get(key, (who, 0.0))[0] == who:
            self._makers[key] = who, time.monotonic()

    def waive(self, key: str) -> None:
        """A bundle will not come: everybody has to make it."""
        self._waived.add(key)

    def accepts(self, key: str, size: int) -> bool:
        """Whether a bundle of so many bytes would be kept; if not, it need not be sent.

        Nobody waits for one that would not.
        """
        if size <= self._bundles.budget:
            return True
        self._counts.refusals += 1
        self.waive(key)
        return False

    def give(self, key: str, seal: str, *arrays: Any) -> None:
        """Keep a bundle that was accepted."""
        self._makers.pop(key, None)
        size = sum(array.nbytes for array in arrays)
        self._bundles.put(key, size, lambda: (seal, [ray.put(array) for array in arrays]))

    # Shards

    def add(self, facts: ShardFacts, images: Any, labels: Any) -> bool:
        """Keep a shard, if the policy wants it; low losses have a high priority."""
        size = images.nbytes + labels.nbytes
        value = lambda: (facts, (ray.put(images), ray.put(labels)))  # noqa: E731
        return self._shards.put(facts.key, size, value, -facts.loss)

    def sample(
        self, trial: str, images: int, sizes: Collection[tuple[int, int]]
    ) -> list[tuple[ShardFacts, tuple[Any, Any]]]:
        """Shards at random that the trial neither made nor drew, until they hold that many images.

        With references to images uint8 [B, channels, H, W] and labels int64 [B].
        """
        drawn = self._drawn.setdefault(trial, set())
        keys = list(self._shards)
        if len(drawn) > 2 * len(keys):  # most of them have given way
            drawn.intersection_update(keys)
        found = []
        while keys and images > 0:  # a key at a time: there may be very many
            place = self._rng.randrange(len(keys))
            keys[place], keys[-1] = keys[-1], keys[place]
            key = keys.pop()
            if key in drawn:
                continue
            facts, references = self._shards.take(key)
            if facts.trial != trial and facts.size in sizes:
                images -= facts.images
                drawn.add(key)
                found.append((facts, references))
        self._counts.hits += len(found)
        self._counts.misses += images > 0
        return found

    def shards(self) -> list[ShardFacts]:
        """What lies here."""
        return [self._shards.take(key)[0] for key in self._shards]

    def counts(self) -> Counts:
        """What happened so far."""
        self._counts.spilled = spilled_here()
        return self._counts


def spilled_here() -> int:
    """Bytes of this node's object store that Ray has spilled to disk and not deleted since.

    The size of its files; Ray tells the figure itself only with packages that dfkd does without.
    """
    where = ray._private.worker._global_node._fallback_directory
    if where is None:  # spilled to somewhere that is no file system
        return 0
    node = ray.get_runtime_context().get_node_id()
    total = 0
    for file in Path(where, f"{DEFAULT_OBJECT_PREFIX}_{node}").glob("*"):
        with suppress(OSError):  # just deleted
            total += file.stat().st_size
    return total


Keeper: Any = ray.remote(num_cpus=0, max_restarts=-1)(PoolKeeper)
