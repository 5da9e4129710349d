"""How the workers of one trial share what they synthesize: through the Ray object store.

A worker hands its shards to the trial's Exchange actor, which puts them into the store as its own,
so that they outlive the worker; everybody maps them from there without a copy.
"""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager
from typing import Any, cast

import ray
import torch
import torch.distributed as dist
import torch.utils.dlpack
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dfkd.methods.errors import TrialFailed
from dfkd.methods.memory import Shard
from dfkd.orchestrator.quick_start import without_the_compiler

TURN_TIMEOUT = 1800.0  # seconds for the slowest worker to synthesize one epoch's shards


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
        with without_the_compiler():
            return DistributedDataParallel(network, device_ids=devices)

    def apart(self, network: nn.Module) -> AbstractContextManager[object]:
        synchronizing = cast(DistributedDataParallel, network)
        return synchronizing.no_sync()
