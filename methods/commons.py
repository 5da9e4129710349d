"""What trials of one teacher have in common: shards that any of them may be taught from.

To take a bundle off a shelf (shelf.py) changes no number; to draw a shard from the commons does: a
trial is then taught from images that another recipe made, and makes fewer of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from dfkd.methods.generators import Size
from dfkd.methods.memory import Shard


class Commons(Protocol):
    """One worker's way to them. Shards in it may be lost at any time; it never raises for that."""

    @property
    def others_add(self) -> bool:
        """Whether what is drawn depends on what other trials do meanwhile.

        Trials then go their own ways from the start, or all would make the same images.
        """
        ...

    def draw(self, images: int, sizes: Collection[Size], drawn: int) -> list[Shard]:
        """Shards of these sizes that this trial neither made nor drew, whole ones, until they hold
        `images` images or there are no more. `drawn` counts those that this worker drew before.
        """
        ...

    def add(self, shards: Sequence[Shard], losses: Sequence[float], epoch: int) -> None:
        """Leave what was made in an epoch, with the loss of each round, for others."""
        ...


class NoCommons:
    """Where every trial keeps to its own."""

    others_add = False

    def draw(self, images: int, sizes: Collection[Size], drawn: int) -> list[Shard]:
        return []

    def add(self, shards: Sequence[Shard], losses: Sequence[float], epoch: int) -> None:
        return


class Ration:
    """How much of a worker's synthesis the commons may replace: at most a share of its images."""

    def __init__(self, share: float, batch: int) -> None:
        self.share = share
        self.batch = batch  # images per round
        self.drawn = 0  # shards so far
        self._credit = 0.0  # images that may still be drawn; below 0 after a large shard
        self._spare = 0  # images that were drawn and have not replaced a round yet

    def allow(self, rounds: int) -> int:
        """How many images to draw, now that `rounds` more rounds are due."""
        self._credit += self.share * rounds * self.batch
        return max(0, min(int(self._credit + 1e-6), rounds * self.batch - self._spare))

    def replace(self, shards: Sequence[Shard], rounds: int) -> int:
        """How many of the rounds are left to make, since these shards were drawn."""
        images = sum(len(shard.images) for shard in shards)
        self.drawn += len(shards)
        self._credit -= images
        self._spare += images
        replaced = min(rounds, self._spare // self.batch)
        self._spare -= replaced * self.batch
        return rounds - replaced

    def state(self) -> list[Any]:
        """What a checkpoint needs."""
        return [self.drawn, self._credit, self._spare]

    def restore(self, state: list[Any]) -> None:
        """Become the ration whose `state()` this is."""
        self.drawn, self._credit, self._spare = state
