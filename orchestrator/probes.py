"""Probes on disk: images that students are judged on, as safetensors files of uint8 tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence

import safetensors.torch

from dfkd.methods.jury import ProbePool


def pools_to_bytes(pools: Sequence[ProbePool]) -> bytes:
    """A safetensors file with one tensor per pool; their order is in its metadata."""
    names = json.dumps([pool.name for pool in pools])
    tensors = {pool.name: pool.images.cpu().contiguous() for pool in pools}
    return safetensors.torch.save(tensors, {"pools": names})


def pools_from_bytes(data: bytes) -> list[ProbePool]:
    """Read back what `pools_to_bytes` wrote."""
    size = int.from_bytes(data[:8], "little")
    names = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["pools"])
    tensors = safetensors.torch.load(data)
    return [ProbePool(name, tensors[name]) for name in names]
