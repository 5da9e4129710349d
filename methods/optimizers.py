"""Adam and SGD by PyTorch's fused kernels, with their layouts looked after.

On a CPU they take an eighth and a quarter of the time of a step tensor by tensor. But they walk a
weight, its gradient and its state in the order of memory: where these are laid out differently (one
channels last, another not), PyTorch 2.15 mixes their elements up without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
BETAS = (0.5, 0.999)  # of every Adam that trains a generator
TORCHS_BETAS = (0.9, 0.999)


def adam(
    weights: Iterable[Tensor] | Iterable[dict[str, Any]],
    lr: float,
    betas: tuple[float, float] = BETAS,
) -> torch.optim.Adam:
    """Adam (Kingma and Ba 2015), of weights or of groups of them."""
    return _guarded(torch.optim.Adam(weights, lr, betas, fused=True))


def sgd(
    weights: Iterable[Tensor], lr: float, momentum: float, weight_decay: float
) -> torch.optim.SGD:
    """SGD with momentum."""
    return _guarded(torch.optim.SGD(weights, lr, momentum, weight_decay=weight_decay, fused=True))


def _guarded(optimizer: Kind) -> Kind:
    optimizer.register_step_pre_hook(_lay_out_gradients)
    optimizer.register_load_state_dict_post_hook(_lay_out_states)
    return optimizer


def _lay_out_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None and weight.grad.stride() != weight.stride():
                weight.grad = _like(weight, weight.grad)


def _lay_out_states(optimizer: torch.optim.Optimizer) -> None:
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                state[name] = _like(weight, value)


def _like(weight: Tensor, values: Tensor) -> Tensor:
    """The values in the weight's layout."""
    return torch.empty_like(weight, requires_grad=False).copy_(values)
