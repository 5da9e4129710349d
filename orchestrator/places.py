"""Where work beside the trials is done: here, or in Ray tasks with what a trial is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import ray
import torch

from dfkd.methods.errors import SweepFailed
from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.quick_start import spare_the_compiler
from dfkd.orchestrator.room import JOIN_PATIENCE

LOSSES = 10  # of a task's workers, that are borne
LOOK_AGAIN = 10.0  # seconds between looks at the cluster while nothing comes

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

    def watched(
        self,
        function: Callable[..., Iterator[int | Result]],
        calls: Sequence[tuple[Any, ...]],
        on_work: Callable[[int], None],
    ) -> list[Result]:
        """The same of a function that yields how much it did since, again and again, and at last
        its result. `on_work` is told as it happens."""
        ...


class Here:
    """In this process, one after another."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def __call__(
        self, function: Callable[..., Result], calls: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        return [function(*call) for call in calls]

    def watched(
        self,
        function: Callable[..., Iterator[int | Result]],
        calls: Sequence[tuple[Any, ...]],
        on_work: Callable[[int], None],
    ) -> list[Result]:
        return [_last(function(*call), on_work) for call in calls]


class OnWorkers:
    """On the cluster, each call in a task that takes what one worker of a trial takes.

    A task whose node is lost is done again elsewhere. Raises SweepFailed where that happened too
    often, and where no node has had room for any of them for JOIN_PATIENCE.
    """

    def __init__(self, need: Resources) -> None:
        self._need = replace(need, workers=1)
        self.device = "cuda" if need.gpus_per_worker else "cpu"

    def __call__(
        self, function: Callable[..., Result], calls: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        running = self._start(_on_a_worker, function, calls)
        left = list(running)
        with _losses_explained():
            while left:
                left.remove(self._first(left))
            results: list[Result] = ray.get(running)
        return results

    def watched(
        self,
        function: Callable[..., Iterator[int | Result]],
        calls: Sequence[tuple[Any, ...]],
        on_work: Callable[[int], None],
    ) -> list[Result]:
        running = self._start(_step_by_step, function, calls)
        results: dict[Any, Result] = {}
        with _losses_explained():
            while left := [steps for steps in running if steps not in results]:
                ready = self._first(left)
                item = ray.get(next(ready))
                if isinstance(item, int):
                    on_work(item)
                else:
                    results[ready] = item
        return [results[steps] for steps in running]

    def _first(self, waiting: Sequence[Any]) -> Any:
        """The one of these that has something, when one has."""
        since = time.monotonic()
        while True:
            ready, _ = ray.wait(waiting, num_returns=1, timeout=LOOK_AGAIN)
            if ready:
                return ready[0]
            if self._need.fitting():
                since = time.monotonic()
            elif time.monotonic() - since > JOIN_PATIENCE:
                raise SweepFailed(
                    f"no node has had {self._need} for {JOIN_PATIENCE:.0f} s; give the cluster "
                    "nodes, then run the same command to resume"
                )

    def _start(self, how: Any, function: Any, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """A task for each call; what Ray knows of them."""
        cpus, gpus = self._need.cpus_per_worker, self._need.gpus_per_worker
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=LOSSES)(how)
        return [task.remote(function, call, max(1, int(cpus))) for call in calls]


@contextmanager
def _losses_explained() -> Iterator[None]:
    """What a task itself raises is passed on; what became of its workers is told."""
    try:
        yield
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise SweepFailed(
            f"workers were lost {LOSSES + 1} times: {error}; run the same command to resume"
        ) from None


def _on_a_worker(function: Callable[..., Result], call: tuple[Any, ...], threads: int) -> Result:
    spare_the_compiler()
    torch.set_num_threads(threads)
    return function(*call)


def _step_by_step(
    function: Callable[..., Iterator[Result]], call: tuple[Any, ...], threads: int
) -> Iterator[Result]:
    spare_the_compiler()
    torch.set_num_threads(threads)
    for item in function(*call):  # noqa: UP028 - Ray sends into it, which not all iterators take
        yield item


def _last(steps: Iterator[int | Result], on_work: Callable[[int], None]) -> Result:
    """The result of such a function, run here."""
    for item in steps:
        if not isinstance(item, int):
            return item
        on_work(item)
    raise RuntimeError("it yielded no result")
