"""What the workers of a trial draw from, and leave for others: other trials' shards on Ray, a pool
that was kept on storage, a pool to keep (dfkd.methods.commons.Commons).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import ray
import torch.utils.dlpack

from dfkd.methods.commons import Commons, NoCommons
from dfkd.methods.errors import TrialFailed
from dfkd.methods.memory import Shard
from dfkd.methods.team import Team
from dfkd.orchestrator.keepers import ShardFacts
from dfkd.orchestrator.patience import StorageFailed
from dfkd.orchestrator.pool_files import SUFFIX, Provenance, keep, read
from dfkd.orchestrator.pool_service import PATIENCE, Keepers
from dfkd.orchestrator.storage import Folder

Size = tuple[int, int]


class OthersShards:
    """The shards that trials of a sweep make, on the keepers of the nodes where they make them."""

    others_add = True

    def __init__(self, keepers: Keepers, trial: str, worker: int = 0) -> None:
        self._keepers = keepers
        self._trial = trial
        self._worker = worker

    def draw(self, images: int, sizes: Collection[Size], drawn: int) -> list[Shard]:
        found: list[Shard] = []
        for node in self._keepers.nodes():  # its own first
            missing = images - sum(len(shard.images) for shard in found)
            if missing <= 0:
                break
            there = self._keepers.ask(node, "sample", self._trial, missing, list(sizes)) or []
            found += fetched([pair for _, pair in there])
        return found

    def add(self, shards: Sequence[Shard], losses: Sequence[float], epoch: int) -> None:
        for home in self._keepers.nodes()[:1]:
            for number, (shard, loss) in enumerate(zip(shards, losses, strict=True)):
                images, labels = shard.images.cpu().contiguous(), shard.labels.cpu().contiguous()
                facts = ShardFacts(
                    key=f"{self._trial}/{self._worker}/{epoch}/{number}",
                    trial=self._trial,
                    epoch=epoch,
                    images=len(images),
                    size=(images.shape[2], images.shape[3]),
                    loss=loss,
                )
                self._keepers.tell(home, "add", facts, images.numpy(), labels.numpy())


def fetched(pairs: Sequence[tuple[Any, Any]]) -> list[Shard]:
    """Shards from references to their images and labels: mapped, not copied, without lost ones."""
    try:
        arrays = ray.get([reference for pair in pairs for reference in pair], timeout=PATIENCE)
    except ray.exceptions.GetTimeoutError:
        return []
    except ray.exceptions.RayError:  # some were lost with their node
        halves = (fetched([pair]) for pair in pairs) if len(pairs) > 1 else ()
        return [shard for half in halves for shard in half]
    tensors = list(map(torch.utils.dlpack.from_dlpack, arrays))
    return [Shard(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)]


class KeptShards(NoCommons):
    """The shards of a pool on storage, in the order of its files' names, dealt out to the workers.

    The order is the same for every trial and after a resume. Raises ConfigError where a file has
    been damaged meanwhile: to go on without it would give other numbers than the same sweep gave.
    """

    def __init__(self, folder: Folder, team: Team) -> None:
        self._folder = folder
        self._team = team
        self._left: Iterator[Shard] | None = None

    def draw(self, images: int, sizes: Collection[Size], drawn: int) -> list[Shard]:
        if self._left is None:
            mine = islice(self._all(sizes), self._team.rank, None, self._team.size)
            self._left = islice(mine, drawn, None)
        found: list[Shard] = []
        while images > 0 and (shard := next(self._left, None)) is not None:
            found.append(shard)
            images -= len(shard.images)
        return found

    def _all(self, sizes: Collection[Size]) -> Iterator[Shard]:
        for name in self._folder.files():
            if name.endswith(SUFFIX):
                shards = read(self._folder, name).shards
                yield from (s for s in shards if tuple(s.images.shape[2:]) in sizes)


@dataclass(frozen=True, slots=True)
class KeepingShards:
    """Writes what its worker makes to storage too."""

    commons: Commons
    folder: Folder
    about: Provenance

    @property
    def others_add(self) -> bool:
        return self.commons.others_add

    def draw(self, images: int, sizes: Collection[Size], drawn: int) -> list[Shard]:
        return self.commons.draw(images, sizes, drawn)

    def add(self, shards: Sequence[Shard], losses: Sequence[float], epoch: int) -> None:
        self.commons.add(shards, losses, epoch)
        try:
            keep(self.folder, shards, losses, replace(self.about, epoch=epoch))
        except StorageFailed:
            raise
        except OSError as error:
            raise TrialFailed(
                f"the pool in {self.folder.uri} cannot be written: {error.strerror or error}; make "
                "room, or run without --keep-pool"
            ) from error


@dataclass(frozen=True, slots=True)
class Both:
    """Draws from the first as long as that has something, then from the second; adds to that."""

    first: Commons
    second: Commons

    @property
    def others_add(self) -> bool:
        return self.second.others_add

    def draw(self, images: int, sizes: Collection[Size], drawn: int) -> list[Shard]:
        found = self.first.draw(images, sizes, drawn)
        missing = images - sum(len(shard.images) for shard in found)
        return found + (self.second.draw(missing, sizes, drawn) if missing > 0 else [])

    def add(self, shards: Sequence[Shard], losses: Sequence[float], epoch: int) -> None:
        self.second.add(shards, losses, epoch)
