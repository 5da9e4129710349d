"""What the workers of a trial draw from, and leave for others: other trials' shards on Ray, a pool
that was kept on storage, a pool to keep (dfkd.methods.commons.Commons).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import ray
import torch.utils.dlpack

from dfkd.methods.memory import Shard
from dfkd.methods.shelf import digest
from dfkd.orchestrator.keepers import ShardFacts
from dfkd.orchestrator.pool_service import PATIENCE, Keepers

Size = tuple[int, int]


class OthersShards:
    """The shards that trials of a sweep make, on the keepers of the nodes where they make them."""

    others_add = True

    def __init__(self, keepers: Keepers, trial: str) -> None:
        self._keepers = keepers
        self._trial = trial

    def draw(self, images: int, sizes: Collection[Size], drawn: int) -> list[Shard]:
        found: list[Shard] = []
        for node in self._keepers.nodes():  # its own first
            missing = images - sum(len(shard.images) for shard in found)
            if missing <= 0:
                break
            there = self._keepers.ask(node, "sample", self._trial, missing, list(sizes)) or []
            for _, references in there:
                try:
                    arrays = ray.get(list(references), timeout=PATIENCE)  # mapped, not copied
                except ray.exceptions.RayError:  # lost with its node
                    continue
                found.append(Shard(*map(torch.utils.dlpack.from_dlpack, arrays)))
        return found

    def add(self, shards: Sequence[Shard], losses: Sequence[float], epoch: int) -> None:
        for home in self._keepers.nodes()[:1]:
            for shard, loss in zip(shards, losses, strict=True):
                images, labels = shard.images.cpu().contiguous(), shard.labels.cpu().contiguous()
                facts = ShardFacts(
                    key=digest(self._trial, images, labels),
                    trial=self._trial,
                    epoch=epoch,
                    images=len(images),
                    size=(images.shape[2], images.shape[3]),
                    loss=loss,
                )
                self._keepers.tell(home, "add", facts, images.numpy(), labels.numpy())
