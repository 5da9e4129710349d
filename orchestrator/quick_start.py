"""Two waits that a trial is spared, 1.2 s and 3 s on two cores (docs/adr/0004).

Both touch private details of Ray 2.60 and torch; where those are gone, nothing breaks, only the
time comes back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from ray.tune.execution import class_cache
from torch.optim import Optimizer


def use_running_workers() -> None:
    """Let trials on a Ray of our own take the worker processes that it started with.

    Tune gives a trial's actor a runtime environment of a few variables, for which Ray starts a new
    process. Workers of our own Ray have inherited these variables already.
    """
    class_cache.DEFAULT_ENV_VARS = {}
    class_cache.ENV_VARS_TO_PROPAGATE = set()


def spare_the_compiler() -> None:
    """Keep torch's optimizers from importing torch's compiler, only to tell it to keep out.

    For processes that compile nothing: numbers are the same, bit for bit.
    """
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        plain = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if plain is not None:
            plain.__dynamo_disable = plain
    for optimizer in (torch.optim.Adam, torch.optim.SGD):
        inner = getattr(optimizer.step, "__wrapped__", None)
        if inner is not None and not hasattr(optimizer.step, "hooked"):
            optimizer.step = _uncompiled(inner)  # type: ignore[method-assign]


def _uncompiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """An optimizer's step as torch wraps it, without the graph breaks."""

    @functools.wraps(step)
    def wrapped(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return wrapped
