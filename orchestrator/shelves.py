"""Where the trials of a sweep leave synthesis for each other: an actor and the Ray object store.

Nobody waits for another trial: what is not there yet, or no longer, is made again. A trial whose
shelf does not answer goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
import torch.utils.dlpack

from dfkd.methods import load_method
from dfkd.methods.inversion import Inversion
from dfkd.methods.memory import Shard
from dfkd.methods.shelf import Bundle, NoShelf, Shelf, contents
from dfkd.orchestrator.actors import Counts, Shelving, beside_me
from dfkd.orchestrator.specs import SweepSpec
from dfkd.search_spaces.dimensions import Real

STORE_SHARE = 0.3  # of the node's object store; the rest is for what trials exchange meanwhile
START_PATIENCE = 60.0  # seconds for its actor to start
PATIENCE = 10.0  # seconds for an answer that takes milliseconds, and less than most epochs


class RayShelf:
    """A trial's way to the sweep's Shelving actor (dfkd.methods.shelf.Shelf)."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.open = True

    def take(self, key: str) -> Bundle | None:
        try:
            found = ray.get(self._actor.take.remote(key), timeout=PATIENCE)
        except ray.exceptions.RayError:  # it is dead or hangs: do not wait for it every epoch
            self.open = False
            return None
        if found is None:
            return None
        seal, references = found
        try:
            arrays = ray.get(references, timeout=PATIENCE)  # mapped, not copied
        except ray.exceptions.RayError:  # lost with a node, or still being fetched from one
            return None
        rest, *pairs = (torch.utils.dlpack.from_dlpack(array) for array in arrays)
        shards = zip(pairs[::2], pairs[1::2], strict=True)
        return Bundle(tuple(Shard(images, labels) for images, labels in shards), rest, seal)

    def give(self, key: str, bundle: Bundle) -> None:
        tensors = (bundle.rest, *contents(bundle.shards))
        try:
            self._actor.give.remote(key, bundle.seal, *(t.contiguous().numpy() for t in tensors))
        except ray.exceptions.RayError:
            self.open = False


def shelf_at(actor: Any) -> Shelf:
    """The shelf that a trial was told of; none if it was told of none."""
    return NoShelf() if actor is None else RayShelf(actor)


@contextmanager
def shelving(sweep: SweepSpec, sharing: str, say: Callable[[str], None]) -> Iterator[Any]:
    """The actor of a sweep whose trials can share, else None; says at the end what it was good for.

    It lies beside the caller, and ends with the block.
    """
    if sharing == "off" or not can_share(sweep):
        yield None
        return
    actor = beside_me(Shelving).remote(budget())
    try:
        with suppress(ray.exceptions.RayError):  # trials would give up on one that still starts
            ray.get(actor.counts.remote(), timeout=START_PATIENCE)
        yield actor
        say(told(actor))
    finally:
        ray.kill(actor)


def can_share(sweep: SweepSpec) -> bool:
    """Whether trials may have synthesis in common: unless each draws numbers that it reads.

    What is chosen among a few values may well be chosen twice.
    """
    for name, plan in sweep.methods.items():
        method = load_method(name)
        drawn = {key for key, dimension in plan.search.items() if isinstance(dimension, Real)}
        if issubclass(method, Inversion) and drawn <= method.taught | method.played:
            return True
    return False


def budget() -> int:
    """Bytes that the shelf may keep on this node."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return int(STORE_SHARE * node["Resources"]["object_store_memory"])


def told(actor: Any) -> str:
    """What sharing was good for, in one line."""
    try:
        counts: Counts = ray.get(actor.counts.remote(), timeout=PATIENCE)
    except ray.exceptions.RayError:
        return "shared synthesis: its shelf was lost, and every trial then made its own"
    return (
        f"shared synthesis: {counts.hits} epochs taken instead of made; "
        f"{counts.bundles} kept ({counts.bytes / 2**20:.1f} MiB), {counts.evictions} given up"
    )
