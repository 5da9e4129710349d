"""Where work beside the trials is done: here, or in Ray tasks with what a trial is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import ray
import torch

from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.quick_start import spare_the_compiler

Result = TypeVar("Result")


class Place(Protocol):
    """Calls functions somewhere."""

    device: str
    """Which device they may use there, in torch's words."""

    def __call__(
        self, function: Callable[..., Result], calls: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        """The function's results for several lots of arguments, in their order."""
        ...


class Here:
    """In this process, one after another."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def __call__(
        self, function: Callable[..., Result], calls: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        return [function(*call) for call in calls]


class OnWorkers:
    """On the cluster, each call in a task that takes what one worker of a trial takes."""

    def __init__(self, need: Resources) -> None:
        self._need = need
        self.device = "cuda" if need.gpus_per_worker else "cpu"

    def __call__(
        self, function: Callable[..., Result], calls: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        cpus, gpus = self._need.cpus_per_worker, self._need.gpus_per_worker
        task = ray.remote(num_cpus=cpus, num_gpus=gpus)(_on_a_worker)
        waiting = [task.remote(function, call, max(1, int(cpus))) for call in calls]
        results: list[Result] = ray.get(waiting)
        return results


def _on_a_worker(function: Callable[..., Result], call: tuple[Any, ...], threads: int) -> Result:
    spare_the_compiler()
    torch.set_num_threads(threads)
    return function(*call)
