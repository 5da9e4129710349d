"""A pool of images of several resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfkd.methods.errors import TrialFailed
from dfkd.methods.generators import Size
from dfkd.methods.memory import Batch, Pool, Shard
from dfkd.methods.shape import ImageShape


class Buckets:
    """A pool per size; a batch comes from one of them, drawn in proportion to its images.

    `capacity` counts the images of all sizes together; 0 means no bound. If `enlarged`, batches
    have the size of `shape` whatever their images were made at.
    """

    def __init__(
        self, shape: ImageShape, sizes: Sequence[Size], capacity: int, device: torch.device
    ) -> None:
        self.shape = shape
        self.enlarged = False
        share = -(-capacity // len(sizes))
        self.pools = {
            size: Pool(ImageShape(shape.channels, *size), share, device) for size in sizes
        }

    def __len__(self) -> int:
        return sum(map(len, self.pools.values()))

    @property
    def sizes(self) -> list[Size]:
        """Height and width of the images that it takes."""
        return list(self.pools)

    @property
    def labels(self) -> Tensor:
        """The classes that the images were made for, size by size."""
        return torch.cat([pool.labels for pool in self.pools.values()])

    def add(self, shard: Shard, rng: torch.Generator | None = None) -> None:
        """Copy a shard in, to the others of its size."""
        height, width = shard.images.shape[2:]
        self.pools[height, width].add(shard, rng)

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """Draw `count` images of one size, with replacement."""
        if not len(self):
            raise TrialFailed("the pool is empty: nothing was synthesized before distillation")
        pools = [pool for pool in self.pools.values() if len(pool)]
        filled = torch.tensor([float(len(pool)) for pool in pools], device=rng.device)
        which = int(torch.multinomial(filled, 1, generator=rng)) if len(pools) > 1 else 0
        batch = pools[which].sample(count, rng)
        if not self.enlarged:
            return batch
        return replace(batch, images=resized(batch.images, (self.shape.height, self.shape.width)))

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to rebuild all pools exactly."""
        return {"pools": [pool.state() for pool in self.pools.values()]}

    def restore(self, state: dict[str, Any]) -> None:
        """Become the pools whose `state()` this is."""
        for pool, saved in zip(self.pools.values(), state["pools"], strict=True):
            pool.restore(saved)


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images or maps [B, channels, h, w] at another size, bilinearly; unchanged if they have it."""
    if images.shape[2:] == tuple(size):
        return images
    return F.interpolate(images, size=tuple(size), mode="bilinear", align_corners=False)
