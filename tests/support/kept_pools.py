"""Pools to keep in tests: small, of three classes, the same every time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dfkd.methods.memory import Shard
from dfkd.orchestrator.pool_files import Provenance, keep
from dfkd.orchestrator.storage import Folder

CLASSES = ("top", "middle", "bottom/low")
ABOUT = Provenance(
    task="stripes",
    teacher="0123456789abcdef",
    method="nayer",
    recipe="deadbeef",
    trial="t000",
    epoch=1,
    worker=0,
    seed=0,
    classes=CLASSES,
)


def shard(seed: int = 0, count: int = 9, size: tuple[int, int, int] = (1, 6, 6)) -> Shard:
    """Images of noise; each class as often as the others."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, *size), generator=rng, dtype=torch.uint8)
    return Shard(images, torch.arange(count) % len(CLASSES))


def keep_pool(folder: Folder, *shards: Shard, **about: Any) -> list[str]:
    """Keep each shard as an epoch's, in a file of its own; one of noise if none is given."""
    return [
        name
        for epoch, one in enumerate(shards or (shard(),), 1)
        for name in keep(folder, [one], [0.5 * epoch], replace(ABOUT, **{"epoch": epoch} | about))
    ]
