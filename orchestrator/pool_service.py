"""A sweep's pools on a Ray cluster: a keeper on every node, which trials find by name.

The driver owns the keepers. They end with the sweep, and with a driver that crashed; one that was
killed starts again, empty. A worker whose keeper does not answer goes on without it for a while:
what it cannot take it makes.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dfkd.orchestrator.keepers import Counts, Keeper, Policy

STORE_SHARE = 0.3  # of a node's object store; the rest is for what trials exchange meanwhile
START_PATIENCE = 60.0  # seconds for a keeper to start
PATIENCE = 10.0  # seconds for an answer that takes milliseconds
LOOK_AGAIN = 10.0  # seconds between looks at who is there
SILENT = 600.0  # seconds for which a keeper that did not answer in time is not asked
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """How the trials of a sweep share."""

    mode: str
    """exact: what several would make is made once; teacher: trials draw each other's shards."""
    budget: int = 0
    """Bytes on each node; 0: STORE_SHARE of its object store."""
    policy: Policy = "ring"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a sweep's keepers are found; small enough to go wherever a trial goes."""

    namespace: str
    mode: str


class Keepers:
    """One process's way to the keepers of its sweep."""

    def __init__(self, address: Address) -> None:
        self._namespace = address.namespace
        self._known: dict[str, Any] = {}  # by node
        self._looked = -LOOK_AGAIN
        self._silent: dict[str, float] = {}  # nodes, and until when

    def nodes(self) -> list[str]:
        """Nodes with a keeper that answers, this process's own first."""
        now = time.monotonic()
        if now - self._looked > LOOK_AGAIN:
            self._looked = now
            self._known = self._found()
        known = [node for node in self._known if self._silent.get(node, 0.0) < now]
        here = ray.get_runtime_context().get_node_id()
        return sorted(known, key=lambda node: (node != here, node))

    def home_of(self, key: str) -> str | None:
        """The node where a bundle lies, if anywhere: the same for all who ask.

        By rendezvous hashing (Thaler and Ravishankar 1998): a node that comes or goes moves only
        the keys that are its own.
        """
        weight = lambda node: hashlib.blake2b((node + key).encode(), digest_size=8).digest()  # noqa: E731
        return max(self.nodes(), key=weight, default=None)

    def ask(self, node: str, question: str, *given: Any) -> Any:
        """What the keeper says; None if it cannot."""
        try:
            return ray.get(self._call(node, question, given), timeout=PATIENCE)
        except ray.exceptions.GetTimeoutError:  # a RayError too: do not wait for it every epoch
            self._silent[node] = time.monotonic() + SILENT
        except ray.exceptions.RayError:
            self._silent[node] = time.monotonic() + LOOK_AGAIN
        return None

    def tell(self, node: str, what: str, *given: Any) -> None:
        """Without waiting for an answer."""
        with suppress(ray.exceptions.RayError):
            self._call(node, what, given)

    def _call(self, node: str, what: str, given: tuple[Any, ...]) -> Any:
        return getattr(self._known[node], what).remote(*given)

    def _found(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for actor in list_named_actors(all_namespaces=True):
            if actor["namespace"] == self._namespace:
                with suppress(ValueError):  # it has just died
                    found[actor["name"]] = ray.get_actor(actor["name"], self._namespace)
        return found


class PoolService:
    """The driver's side: keepers on all nodes, also on those that join later."""

    def __init__(self, plan: PoolPlan) -> None:
        self.address = Address(f"dfkd-pools-{uuid.uuid4().hex}", plan.mode)
        self._plan = plan
        self._keepers: dict[str, Any] = {}
        self._over = threading.Event()
        self._lookout = threading.Thread(target=self._look_out, daemon=True)

    def start(self) -> None:
        """Keepers where there are nodes now."""
        self._cover()
        with suppress(ray.exceptions.RayError):  # trials would give up on one that still starts
            ray.get([k.counts.remote() for k in self._keepers.values()], timeout=START_PATIENCE)
        self._lookout.start()

    def stop(self) -> None:
        """End all keepers."""
        self._over.set()
        self._lookout.join(PATIENCE)
        for keeper in self._keepers.values():
            with suppress(ray.exceptions.RayError):
                ray.kill(keeper)
        self._keepers.clear()

    def counts(self) -> Counts:
        """What happened at the keepers that answer."""
        total = Counts()
        for keeper in self._keepers.values():
            with suppress(ray.exceptions.RayError):
                total += ray.get(keeper.counts.remote(), timeout=PATIENCE)
        return total

    def _look_out(self) -> None:
        while not self._over.wait(LOOK_AGAIN):
            with suppress(Exception):  # Ray may just be going down
                self._cover()

    def _cover(self) -> None:
        for node in ray.nodes():
            id = node["NodeID"]
            if node["Alive"] and id not in self._keepers:
                there = NodeAffinitySchedulingStrategy(id, soft=False)
                budget = self._plan.budget or int(
                    STORE_SHARE * node["Resources"].get("object_store_memory", 0)
                )
                keeper = Keeper.options(
                    name=id, namespace=self.address.namespace, scheduling_strategy=there
                )
                self._keepers[id] = keeper.remote(budget, self._plan.policy)


@contextmanager
def pool_service(plan: PoolPlan | None) -> Iterator[PoolService | None]:
    """The keepers of a sweep for the time of the block; none if there is nothing to share."""
    if plan is None:
        yield None
        return
    service = PoolService(plan)
    try:
        service.start()
        yield service
    finally:
        service.stop()


def told(counts: Counts, mode: str) -> str:
    """What sharing was good for, in one line."""
    if not counts.hits and not counts.misses:
        return "shared synthesis: its keepers were lost, and every trial made its own"
    parts = [
        f"{counts.hits} shards drawn from other trials"
        if mode == "teacher"
        else f"{counts.hits} epochs taken instead of made",
        f"{counts.kept} kept ({counts.bytes / MIB:.1f} MiB)",
        f"{counts.evictions} given up",
    ]
    if counts.refusals:
        parts.append(f"{counts.refusals} refused")
    if counts.spilled:
        parts.append(f"{counts.spilled / MIB:.1f} MiB of the object store on disk")
    return "shared synthesis: " + ", ".join(parts)
