"""What one trial made and another may take: an epoch's synthesis, under a key (lineage.py).

To take a bundle instead of making it changes no number: equal keys mean equal contents.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dfkd.methods.memory import Shard


@dataclass(frozen=True, slots=True)
class Bundle:
    """What an epoch's synthesis leaves on one worker, on the CPU; nobody may change it."""

    shards: tuple[Shard, ...]
    rest: Tensor
    """All but the shards, as `torch.save` writes it: uint8 [n]."""
    seal: str
    """A digest of both."""

    @classmethod
    def of(cls, shards: Sequence[Shard], rest: Mapping[str, Any]) -> Bundle:
        """A snapshot: `rest` may hold live tensors, numbers, lists and dicts."""
        kept = tuple(Shard(shard.images.cpu(), shard.labels.cpu()) for shard in shards)
        buffer = io.BytesIO()
        torch.save(dict(rest), buffer)
        written = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        return cls(kept, written, digest(written, *contents(kept)))

    def open(self, device: torch.device) -> dict[str, Any] | None:
        """`rest` as it was put in, its tensors on `device`; None if the bundle was damaged."""
        if self.seal != digest(self.rest, *contents(self.shards)):
            return None
        written = io.BytesIO(self.rest.numpy().tobytes())
        rest: dict[str, Any] = torch.load(written, map_location=device, weights_only=True)
        return rest


class Shelf(Protocol):
    """Bundles by key, shared by trials. It may lose or refuse any of them, and never raises.

    Who takes a key that is not there yet is expected to make it, and says so: `proceed` while it is
    being made, then `give`, or `waive` if nobody else can use it.
    """

    @property
    def open(self) -> bool:
        """Whether it is worth asking, and to make bundles for it."""
        ...

    def take(self, key: str) -> Bundle | None:
        """What was given under this key; waits only while another trial is known to make it."""
        ...

    def proceed(self, key: str) -> None:
        """This trial is still making what it did not find under this key; costs next to nothing."""
        ...

    def waive(self, key: str) -> None:
        """This trial will not give what it did not find: nobody need wait for it."""
        ...

    def give(self, key: str, bundle: Bundle) -> None:
        """Leave a bundle for others; it takes the place of one with the same key."""
        ...


class NoShelf:
    """Where every trial makes its own."""

    open = False

    def take(self, key: str) -> Bundle | None:
        return None

    def proceed(self, key: str) -> None:
        return

    def waive(self, key: str) -> None:
        return

    def give(self, key: str, bundle: Bundle) -> None:
        return


def contents(shards: Sequence[Shard]) -> list[Tensor]:
    """Images and labels, alternating."""
    return [tensor for shard in shards for tensor in (shard.images, shard.labels)]


def digest(*parts: Tensor | str) -> str:
    """32 hex digits of texts and tensors, whatever device and memory layout these have.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, str):
            found.update(f"{len(part)}:{part}".encode())
        else:
            found.update(f"{part.dtype}{list(part.shape)}:".encode())
            plain = part.detach().cpu().contiguous().reshape(-1)
            found.update(plain.view(torch.uint8).numpy().data)
    return found.hexdigest()
