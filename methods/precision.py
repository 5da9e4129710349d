"""The numbers that networks compute with while they train: float32, or bfloat16 where that pays."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

PRECISIONS = ("float32", "bfloat16")


def computing(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A forward pass in this precision; weights, losses and optimizers stay in float32.

    bfloat16 has float32's range and 8 bits of its mantissa, so no loss is scaled. PyTorch decides
    by operation (torch.autocast): convolutions and products take bfloat16, and what was computed
    by them is kept in it for the backward pass.
    """
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def widened(values: Tensor) -> Tensor:
    """In float32 what is in less, for a loss."""
    return values.float() if values.dtype == torch.bfloat16 else values
