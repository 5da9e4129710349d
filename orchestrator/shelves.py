"""Synthesis that several trials of a sweep would make alike, by way of the keepers.

No trial does without making what it could make at once: it waits for another one only while that
one shows that it is making the very same thing, which takes no longer than making it here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import ray
import torch.utils.dlpack

from dfkd.methods import load_method
from dfkd.methods.inversion import Inversion
from dfkd.methods.memory import Shard
from dfkd.methods.shelf import Bundle, contents
from dfkd.orchestrator.pool_service import PATIENCE, Keepers
from dfkd.orchestrator.specs import SweepSpec
from dfkd.search_spaces.dimensions import Real

SIGNS = 1.0  # seconds between signs that a bundle is being made
FIRST_PAUSE, LAST_PAUSE = 0.02, 0.5  # seconds between questions for one that others make


class RayShelf:
    """One worker's way to the bundles of its sweep (dfkd.methods.shelf.Shelf)."""

    def __init__(self, keepers: Keepers, who: str) -> None:
        self._keepers = keepers
        self._who = who
        self._signed = 0.0

    @property
    def open(self) -> bool:
        """Whether any keeper answers."""
        return bool(self._keepers.nodes())

    def take(self, key: str) -> Bundle | None:
        pause = FIRST_PAUSE
        while (found := self._ask("take", key, self._who)) == "wait":
            time.sleep(pause)
            pause = min(1.5 * pause, LAST_PAUSE)
        if found is None:
            return None
        seal, references = found
        try:
            arrays = ray.get(references, timeout=PATIENCE)  # mapped, not copied
        except ray.exceptions.RayError:  # lost with a node, or still being fetched from one
            return None
        rest, *pairs = (torch.utils.dlpack.from_dlpack(array) for array in arrays)
        shards = zip(pairs[::2], pairs[1::2], strict=True)
        return Bundle(tuple(Shard(images, labels) for images, labels in shards), rest, seal)

    def proceed(self, key: str) -> None:
        now = time.monotonic()
        if now - self._signed > SIGNS:
            self._signed = now
            self._tell("proceed", key, self._who)

    def waive(self, key: str) -> None:
        self._tell("waive", key)

    def give(self, key: str, bundle: Bundle) -> None:
        arrays = [t.contiguous().numpy() for t in (bundle.rest, *contents(bundle.shards))]
        if self._ask("accepts", key, sum(array.nbytes for array in arrays)):
            self._tell("give", key, bundle.seal, *arrays)

    def _ask(self, question: str, key: str, *given: Any) -> Any:
        home = self._keepers.home_of(key)
        return None if home is None else self._keepers.ask(home, question, key, *given)

    def _tell(self, what: str, key: str, *given: Any) -> None:
        home = self._keepers.home_of(key)
        if home is not None:
            self._keepers.tell(home, what, key, *given)


def keeps_pools(methods: Iterable[str]) -> bool:
    """Whether any of these methods makes shards, which others may be taught from."""
    return any(issubclass(load_method(name), Inversion) for name in methods)


def can_share(sweep: SweepSpec) -> bool:
    """Whether trials may have synthesis in common: unless each draws numbers that it reads.

    What is chosen among a few values may well be chosen twice.
    """
    for name, plan in sweep.methods.items():
        method = load_method(name)
        drawn = {key for key, dimension in plan.search.items() if isinstance(dimension, Real)}
        if issubclass(method, Inversion) and drawn <= method.taught | method.played:
            return True
    return False
