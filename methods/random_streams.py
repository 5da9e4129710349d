"""Randomness as a function of where we are: (seed, what for, epoch, worker) to a stream.

Because no stream outlives an epoch, a trial that resumes at epoch e draws exactly the numbers that
an uninterrupted one draws there: the seed and the epoch number are the whole random state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from what identifies a stream; equal parts give equal seeds everywhere.

    >>> derive_seed(0, "epoch", 3) == derive_seed(0, "epoch", 3) != derive_seed(0, "epoch", 4)
    True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """A generator on `device`, seeded by `derive_seed(*parts)`."""
    return torch.Generator(device).manual_seed(derive_seed(*parts))


@contextmanager
def global_stream(device: torch.device | str, *parts: int | str) -> Iterator[None]:
    """Seed torch's global generators within the block, and leave them as they were.

    For what takes no generator: weights of new layers, dropout.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(derive_seed(*parts))
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(derive_seed(*parts))
        yield
