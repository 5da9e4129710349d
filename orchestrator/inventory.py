"""What there is to run a sweep on: this machine, or a cluster that is joined to look at it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import ray
import ray._common.utils
import ray._private.utils

from dfkd.orchestrator.clusters import Resources

ACCELERATOR = "accelerator_type:"  # how Ray names a node's kind of GPU among its resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine."""

    cpus: float
    gpus: float = 0.0
    gpu_names: tuple[str, ...] = ()
    gpu_memory: int | None = None
    """Bytes of each GPU; None: not known here."""
    memory: int
    """Bytes, the object store's included."""
    store: int
    """Bytes that Ray's object store may take."""

    def fitting(self, need: Resources) -> int:
        """How many workers fit."""
        have = {"CPU": self.cpus, "GPU": self.gpus}
        return int(min(have[name] / amount + 1e-6 for name, amount in need.per_worker.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The machines of a sweep."""

    where: str
    """This machine, or a cluster's address."""
    nodes: tuple[Node, ...]

    def fitting(self, need: Resources) -> int:
        """How many trials run at once at most; each worker is on one node."""
        return sum(node.fitting(need) for node in self.nodes) // need.workers


def address_of(asked: str | None) -> str | None:
    """The cluster that a sweep would join; None: it starts Ray on this machine."""
    if ray.is_initialized():
        return "the cluster that is joined"
    address = asked or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def this_machine() -> Inventory:
    """As Ray would find it; starts nothing."""
    import torch

    memory = int(ray._common.utils.get_system_memory())
    free = int(ray._private.utils.estimate_available_memory())
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    node = Node(
        cpus=float(ray._private.utils.get_num_cpus()),
        gpus=float(len(gpus)),
        gpu_names=tuple(gpu.name for gpu in gpus),
        gpu_memory=min((gpu.total_memory for gpu in gpus), default=None),
        memory=memory,
        store=int(ray._private.utils.resolve_object_store_memory(free)),
    )
    return Inventory(where="this machine", nodes=(node,))


def joined_cluster(address: str) -> Inventory:
    """The cluster that Ray is connected to."""
    return Inventory(
        where=address, nodes=tuple(_node(n["Resources"]) for n in ray.nodes() if n["Alive"])
    )


def _node(resources: dict[str, float]) -> Node:
    store = int(resources.get("object_store_memory", 0))
    names = (key.removeprefix(ACCELERATOR) for key in resources if key.startswith(ACCELERATOR))
    return Node(
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        gpu_names=tuple(names),
        memory=int(resources.get("memory", 0)) + store,
        store=store,
    )


def free_memory() -> int:
    """Bytes that are free on this machine now."""
    return int(ray._private.utils.estimate_available_memory())
