"""How the workers of one trial share what they synthesize: through the Ray object store.

Each trial has one `Exchange` actor, owned by the trial's driver and gone with it. A worker hands
over its shards; the actor puts them into the store as its own, so that they outlive the worker;
everybody maps them from there without a copy. It also holds a failure's reason, for workers that
are started again.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, cast

import ray
import torch
import torch.distributed as dist
import torch.utils.dlpack
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dfkd.methods.errors import TrialFailed
from dfkd.methods.memory import Shard

TURN_TIMEOUT = 1800.0  # seconds for the slowest worker to synthesize one epoch's shards
TURNS_KEPT = 2

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


class TrainTeam:
    """The Ray Train workers of one trial, as methods see them (dfkd.methods.team.Team).

    Shards go through the exchange, gradients through torch.distributed, and whatever else is small
    through a gloo group of its own, since NCCL takes tensors on GPUs only.
    """

    def __init__(self, rank: int, size: int, exchange: Any, device: torch.device) -> None:
        self.rank = rank
        self.size = size
        self._exchange = exchange
        self._device = device
        self._small = cast(Any, dist.new_group(backend="gloo"))
        start = [uuid.uuid4().hex if rank == 0 else ""]
        dist.broadcast_object_list(start, src=0, group=self._small)
        self._start = start[0]
        self._turn = 0

    def share(self, shards: list[Shard]) -> list[Shard]:
        turn = (self._start, self._turn)
        self._turn += 1
        arrays = [t.cpu().numpy() for shard in shards for t in (shard.images, shard.labels)]
        self._exchange.give.remote(turn, self.rank, *arrays)
        try:
            references = ray.get(self._exchange.take.remote(turn), timeout=TURN_TIMEOUT)
            everything = [torch.utils.dlpack.from_dlpack(array) for array in ray.get(references)]
        except ray.exceptions.GetTimeoutError:
            raise TrialFailed(
                f"a worker did not finish its shards within {TURN_TIMEOUT:.0f} s of the first"
            ) from None
        pairs = zip(everything[::2], everything[1::2], strict=True)
        return [Shard(images, labels) for images, labels in pairs]

    def total(self, values: Tensor) -> Tensor:
        summed = values.detach().cpu().clone()
        dist.all_reduce(summed, group=self._small)
        return summed.to(values.device)

    def gather(self, state: Any) -> list[Any]:
        states: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(state, states, dst=0, group=self._small)
        return states or []

    def parallel(self, network: nn.Module) -> nn.Module:
        devices = [self._device] if self._device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices)
