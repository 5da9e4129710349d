"""Waits that a trial is spared, seconds of a core each (docs/adr/0004, docs/scaling.md).

All touch private details of Ray 2.60 and torch; where those are gone, nothing breaks, only the
time comes back.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ray.tune.execution import class_cache
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

COMPILER = "torch._dynamo"


def use_running_workers() -> None:
    """Let trials on a Ray of our own take the worker processes that it started with.

    Tune gives a trial's actor a runtime environment of a few variables, for which Ray starts a new
    process. Workers of our own Ray have inherited these variables already.
    """
    class_cache.DEFAULT_ENV_VARS = {}
    class_cache.ENV_VARS_TO_PROPAGATE = set()


@contextmanager
def with_credentials_only() -> Iterator[None]:
    """Let trials of one worker take processes that wait on a cluster that was joined.

    Of what Tune would have new processes for, such trials need the storage's credentials alone,
    where the driver has them in its environment (and `stay_where_we_are`, which the actor sees to).
    """
    before = class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.DEFAULT_ENV_VARS = {}
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in before[1] if name.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = before


def stay_where_we_are() -> None:
    """Keep Tune from changing this process's folder to one of its own."""
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"


def spare_the_compiler() -> None:
    """Keep torch's optimizers from importing torch's compiler, only to tell it to keep out.

    So too the passes of networks in parallel. For processes that compile nothing: numbers are the
    same, bit for bit.
    """
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        _call_plainly(getattr(Optimizer, name))
    passing = getattr(DistributedDataParallel, "_inside_ddp_forward", None)
    _call_plainly(getattr(passing, "__wrapped__", None))
    for optimizer in (torch.optim.Adam, torch.optim.SGD):
        inner = getattr(optimizer.step, "__wrapped__", None)
        if inner is not None and not hasattr(optimizer.step, "hooked"):
            optimizer.step = _uncompiled(inner)  # type: ignore[method-assign]


def _call_plainly(guarded: Any) -> None:
    """Let a function that torch keeps its compiler out of be called as it was written."""
    plain = getattr(guarded, "__wrapped__", None)
    if plain is not None:
        plain.__dynamo_disable = plain


@contextmanager
def without_the_compiler() -> Iterator[None]:
    """Answer for torch's compiler while a DistributedDataParallel is made.

    That asks which of its optimizations for such networks is on, which is what it is by default,
    and would import all of it to hear that. Any other question is the compiler's own.
    """
    if COMPILER in sys.modules:
        yield
        return
    options = StandIn(f"{COMPILER}.utils", get_optimize_ddp_mode=lambda: "ddp_optimizer")
    torch._dynamo = StandIn(COMPILER, utils=options)  # type: ignore[assignment]
    try:
        yield
    finally:
        if COMPILER not in sys.modules:
            del torch._dynamo  # for torch to import it once it is needed


class StandIn:
    """Gives some answers of a module, and imports it for others."""

    def __init__(self, module: str, **answers: Any) -> None:
        self._module = module
        vars(self).update(answers)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)


def _uncompiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """An optimizer's step as torch wraps it, without the graph breaks."""

    @functools.wraps(step)
    def wrapped(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return wrapped
