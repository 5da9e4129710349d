"""What the student is taught from: shards of synthetic images, pools that hold them, mixtures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dfkd.methods.errors import TrialFailed
from dfkd.methods.pieces import in_pieces, put_together
from dfkd.methods.shape import ImageShape

POLICIES = ("ring", "reservoir", "random")


@dataclass(frozen=True, slots=True)
class Shard:
    """One synthesized batch: images uint8 [B, channels, H, W] and the classes [B] asked for."""

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> Shard:
        """Quantize images in [0, 1]."""
        return cls(quantized(images), labels)

    def __getitem__(self, rows: Tensor) -> Shard:
        """Some of its images."""
        images = self.images.index_select(0, rows.to(self.images.device))
        return Shard(images, self.labels[rows.to(self.labels.device)])


def quantized(images: Tensor) -> Tensor:
    """Images in [0, 1] in 256 levels, uint8."""
    return (images.detach() * 255).round().to(torch.uint8)


@dataclass(frozen=True, slots=True)
class Batch:
    """What the student is shown in one step."""

    images: Tensor
    """[B, channels, H, W], floats in [0, 1]."""
    labels: Tensor | None = None
    """The classes [B] that the images were made for; None where nobody asked for any."""
    weights: Tensor | None = None
    """How much each image counts, [B]; None: all the same."""
    index: Tensor | None = None
    """Where each image lies in its pool, [B]; None where it lies in none."""

    def split(self, parts: int) -> list[Batch]:
        """The batch in up to `parts` parts, of equal size but for the last."""
        if parts == 1:
            return [self]
        size = math.ceil(len(self.images) / parts)
        columns = [
            [None] * parts if values is None else values.split(size)
            for values in (self.images, self.labels, self.weights, self.index)
        ]
        return [Batch(*rows) for rows in zip(*columns, strict=False)]


class ImageSource(Protocol):
    """Anything a student can draw training images from."""

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """`count` images."""
        ...


class Pool:
    """Images in one uint8 tensor on the device.

    `capacity` counts images; 0 means no bound (the tensor then doubles as needed). In a full pool
    the policy decides who gives way: `ring` the oldest, `random` anybody, `reservoir` such that
    every image ever added is kept with the same probability (Vitter 1985, algorithm R).
    """

    def __init__(
        self, shape: ImageShape, capacity: int, device: torch.device, policy: str = "ring"
    ) -> None:
        self.capacity = capacity
        self.policy = policy
        self._next = 0  # where the next image goes
        self._size = 0
        self._seen = 0
        rows = capacity or 256
        size = (rows, shape.channels, shape.height, shape.width)
        self._images = torch.empty(size, dtype=torch.uint8, device=device)
        self._labels = torch.empty(rows, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return self._size

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of the images that it takes."""
        return [(self._images.shape[2], self._images.shape[3])]

    @property
    def bytes(self) -> int:
        """Memory that the images in the pool take."""
        return self._size * self._images[0].numel()

    @property
    def images(self) -> Tensor:
        """All images, uint8, oldest slot first."""
        return self._images[: self._size]

    @property
    def labels(self) -> Tensor:
        """The classes that the images were made for."""
        return self._labels[: self._size]

    def add(self, shard: Shard, rng: torch.Generator | None = None) -> Tensor:
        """Copy a shard in; returns where its images went [<= B]. Only `ring` can do without rng."""
        count = len(shard.images)
        if not self.capacity:
            self._reserve(self._size + count)
        if self.policy == "ring" or self._size + count <= len(self._images):
            where = torch.arange(self._next, self._next + count) % len(self._images)
            rows = torch.arange(max(0, count - len(self._images)), count)
            where = where[rows]
        else:
            where, rows = self._displaced(count, rng)
        self._next = (
            (self._next + count) % len(self._images) if self.capacity else self._size + count
        )
        self._seen += count
        self._size = min(self._size + count, len(self._images))
        device = self._images.device
        where, kept = where.to(device), shard if len(rows) == count else shard[rows]
        self._write(where, kept.images.to(device), kept.labels.to(device))
        return where

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """Draw `count` images with replacement."""
        if not self._size:
            raise TrialFailed("the pool is empty: nothing was synthesized before distillation")
        return self.at(
            torch.randint(self._size, (count,), generator=rng, device=self._images.device)
        )

    def at(self, index: Tensor, weights: Tensor | None = None) -> Batch:
        """The images at `index` [B], as floats."""
        images = self._images.index_select(0, index)  # whole rows: much faster than [index]
        return Batch(images.float().div_(255), self._labels[index], weights, index)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to rebuild the pool exactly; views, good until it changes."""
        images, labels = in_pieces(self.images), self.labels
        return {"images": images, "labels": labels, "next": self._next, "seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Become the pool whose `state()` this is."""
        size = len(state["labels"])
        if not self.capacity:
            self._reserve(size)
        put_together(state["images"], self._images)
        self._labels[:size] = state["labels"]
        self._size, self._next, self._seen = size, state["next"], state["seen"]

    def _write(self, where: Tensor, images: Tensor, labels: Tensor) -> None:
        """Images to their slots, in one piece if these lie in a row: that is many times faster."""
        if len(where) and int(where[-1] - where[0]) == len(where) - 1:
            slots: Any = slice(int(where[0]), int(where[0]) + len(where))
        else:
            slots = where
        self._images[slots] = images
        self._labels[slots] = labels

    def _displaced(self, count: int, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Slots for the images of a shard that does not fit, and the rows that go there."""
        assert rng is not None, f"a {self.policy} pool needs a generator"
        rooms = len(self._images)
        rows = torch.arange(count, device=rng.device)
        among = self._seen + rows + 1 if self.policy == "reservoir" else torch.tensor(rooms)
        drawn = (torch.rand(count, generator=rng, device=rng.device) * among).long()
        slots = torch.where(self._size + rows < rooms, self._size + rows, drawn)
        rows, slots = rows[slots < rooms], slots[slots < rooms]
        latest = torch.full((rooms,), -1, device=rng.device)  # of two for one slot, the later stays
        latest = latest.scatter_reduce(0, slots, rows, "amax")
        where = latest.ge(0).nonzero().squeeze(1)
        return where, latest[where]

    def _reserve(self, rows: int) -> None:
        room = len(self._images)
        while room < rows:
            room *= 2
        if room > len(self._images):
            self._images, self._labels = grown(self.images, room), grown(self.labels, room)


def grown(rows: Tensor, room: int) -> Tensor:
    """With room for more rows, which nobody touches yet."""
    found = rows.new_empty((room, *rows.shape[1:]))
    found[: len(rows)] = rows
    return found


@dataclass(frozen=True, slots=True)
class Mixture:
    """Batches of which `share` comes from a memory, and the rest is novel."""

    novel: ImageSource
    memory: ImageSource
    share: float

    def novel_of(self, count: int) -> int:
        """How many of a batch of `count` images are novel; at least one is."""
        return max(1, math.floor(count * (1 - self.share) + 1e-9))

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """The novel images first. Labels are kept only if both sides have them."""
        fresh = self.novel_of(count)
        novel = self.novel.sample(fresh, rng)
        return joined([novel, self.memory.sample(count - fresh, rng)]) if fresh < count else novel


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several. Labels are kept only if all have them."""
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Batch(
        torch.cat([batch.images for batch in batches]),
        torch.cat(labels) if len(labels) == len(batches) else None,
    )
