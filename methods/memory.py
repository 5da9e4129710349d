"""What the student is taught from: shards of synthetic images, and the pool that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dfkd.methods.errors import TrialFailed
from dfkd.methods.shape import ImageShape


@dataclass(frozen=True, slots=True)
class Shard:
    """One synthesized batch: images uint8 [B, channels, H, W] and the classes [B] asked for."""

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> Shard:
        """Quantize images in [0, 1] to 256 levels."""
        return cls((images.detach() * 255).round().to(torch.uint8), labels)


class ImageSource(Protocol):
    """Anything a student can draw training images from."""

    def sample(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images [count, channels, H, W] float in [0, 1] and their labels [count]."""
        ...


class Pool:
    """Images in one uint8 tensor on the device; the oldest give way when `capacity` is reached.

    `capacity` counts images; 0 means no bound (the tensor then doubles as needed).
    """

    def __init__(self, shape: ImageShape, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self._next = 0  # where the next image goes
        self._size = 0
        rows = capacity or 256
        size = (rows, shape.channels, shape.height, shape.width)
        self._images = torch.empty(size, dtype=torch.uint8, device=device)
        self._labels = torch.empty(rows, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return self._size

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

    def add(self, shard: Shard) -> None:
        """Copy a shard in; with a capacity, over the oldest images."""
        count = len(shard.images)
        if not self.capacity:
            self._reserve(self._next + count)
        where = torch.arange(self._next, self._next + count, device=self._images.device)
        where = where[-len(self._images) :] % len(self._images)
        self._images[where] = shard.images[-len(where) :].to(self._images.device)
        self._labels[where] = shard.labels[-len(where) :].to(self._labels.device)
        self._next = (
            (self._next + count) % len(self._images) if self.capacity else self._size + count
        )
        self._size = min(self._size + count, len(self._images))

    def sample(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `count` images with replacement, as floats in [0, 1]."""
        if not self._size:
            raise TrialFailed("the pool is empty: nothing was synthesized before distillation")
        index = torch.randint(self._size, (count,), generator=rng, device=self._images.device)
        return self._images[index].float() / 255, self._labels[index]

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to rebuild the pool exactly."""
        images, labels = (t.to("cpu", copy=True) for t in (self.images, self.labels))
        return {"images": images, "labels": labels, "next": self._next}

    def restore(self, state: dict[str, Any]) -> None:
        """Become the pool whose `state()` this is."""
        size = len(state["images"])
        if not self.capacity:
            self._reserve(size)
        self._images[:size] = state["images"].to(self._images.device)
        self._labels[:size] = state["labels"].to(self._labels.device)
        self._size, self._next = size, state["next"]

    def _reserve(self, rows: int) -> None:
        while len(self._images) < rows:
            self._images = torch.cat([self._images, torch.empty_like(self._images)])
            self._labels = torch.cat([self._labels, torch.empty_like(self._labels)])
