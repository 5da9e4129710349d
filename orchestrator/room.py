"""How many trials a cluster has room for, as it is now and as it may become (docs/adr/0011).

Nodes come and go while a sweep runs. Where Ray's autoscaler looks after the cluster, it adds nodes
for what is asked and cannot be placed: so the sweep asks, by placement groups that nothing runs in,
for the room of trials that it would like to run. Elsewhere they wait for nothing, and cost nothing.
They end with its job, however that ends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray._private.worker
from ray._private.state import available_resources_per_node, state
from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from dfkd.methods.errors import SweepFailed
from dfkd.orchestrator.clusters import Resources

JOIN_PATIENCE = 600.0  # seconds to wait for a cluster that may be scaling up
LOOK_AGAIN = 1.0  # seconds between looks at the cluster
HOLD_BACK = 10.0  # seconds without asking, after what was asked for took room that is needed
AT_MOST = 256  # trials for which room is asked at a time


class Room:
    """The room that a cluster has for trials that take `need` each, `most` of them at once."""

    def __init__(self, need: Resources, most: int | None = None) -> None:
        self.need = need
        self.most = most
        self._asked: list[PlacementGroup] = []
        self._slots = 0
        self._looked = -LOOK_AGAIN
        self._asked_at = -LOOK_AGAIN
        self._hold_back = 0.0

    def __str__(self) -> str:
        total = ray.cluster_resources()
        return f"{total.get('CPU', 0):g} CPU and {total.get('GPU', 0):g} GPU"

    def slots(self) -> int:
        """How many trials may run at once on the nodes there are; looks at most once a second."""
        now = time.monotonic()
        if now - self._looked > LOOK_AGAIN:
            self._looked = now
            self._slots = self.need.fitting()
        return min(self._slots, self.most) if self.most else self._slots

    def ask_for(self, trials: int) -> None:
        """Have room asked for `trials` more than there is room for; 0: ask no longer.

        Does nothing on a Ray of our own, to which nobody adds nodes, and while there is room that
        is free. Looks at most once a second.
        """
        now = time.monotonic()
        if trials <= 0 or now < self._hold_back:
            self._ask(0)
            return
        if now - self._asked_at < LOOK_AGAIN:
            return
        self._asked_at = now
        if any(self._state(group) == "CREATED" for group in self._asked):
            self._hold_back = now + HOLD_BACK
            self._ask(0)
        elif self._asked or not self._free():
            self._ask(min(trials, self._growth(), AT_MOST))

    def wait(
        self, say: Callable[[str], None], wanted: int = 1, patience: float | None = None
    ) -> int:
        """Wait until a trial has room; returns how many have. Says what it waits for.

        Asks for the room of `wanted` trials meanwhile. Raises SweepFailed after `patience` seconds
        (by default none on a Ray of our own, where nothing will come).
        """
        if patience is None:
            patience = JOIN_PATIENCE if joined() else 0.0
        deadline, told = time.monotonic() + patience, 0.0
        try:
            while (room := self.slots()) < 1:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise SweepFailed(
                        f"a trial needs {self.need}, and the cluster has {self}; ask for less with "
                        "--workers, --cpus-per-worker or --gpus-per-worker"
                    )
                self.ask_for(min(wanted, self.most or wanted))
                if time.monotonic() - told > 10:
                    say(
                        f"waiting for room: a trial needs {self.need}, the cluster has {self}; "
                        f"{left:.0f} s left"
                    )
                    told = time.monotonic()
                time.sleep(0.5)
        finally:
            self.ask_for(0)
        return room

    def _ask(self, trials: int) -> None:
        while len(self._asked) > max(0, trials):
            with contextlib.suppress(ray.exceptions.RayError):
                remove_placement_group(self._asked.pop())
        while len(self._asked) < trials:
            self._asked.append(placement_group([self.need.per_worker] * self.need.workers))

    def _free(self) -> bool:
        """Whether a trial could be placed now."""
        return self.need.fitting(list(available_resources_per_node().values())) > 0

    def _growth(self) -> int:
        """For how many more trials there may be room one day."""
        if not joined():
            return 0
        limits: Mapping[str, float] | None = state.get_max_resources_from_cluster_config()
        if limits is None:  # its autoscaler, if there is one, keeps them to itself
            return AT_MOST
        each = self.need.per_worker.items()
        workers = min(limits.get(name, 0.0) / amount for name, amount in each)
        return max(0, int(workers + 1e-6) // self.need.workers - self.slots())

    @staticmethod
    def _state(group: PlacementGroup) -> str:
        found: Mapping[str, Any] = placement_group_table(group)
        return str(found.get("state"))


def joined() -> bool:
    """Whether Ray is a cluster that others look after: not one that this process has started."""
    node = ray._private.worker._global_node
    return not (node and node.is_head())
