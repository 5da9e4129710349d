"""What the jury's control pools are made by: a task's own recipes, unless these are dear.

Nothing can be judged before the pools are there, perhaps made on a CPU, while tasks ask for up to
thousands of steps, and teachers take up to a thousand times what those of small images do. Where a
pool would take more than BUDGET, the methods' preset `small` is used instead, for fewer images: a
recipe cut short is a bad one, as its learning rate was meant for more steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfkd.methods import load_method
from dfkd.methods.jury import PROBES
from dfkd.methods.settings import build, describe
from dfkd.methods.shape import ImageShape
from dfkd.methods.teacher import Teacher
from dfkd.search_spaces.task import Task

EXTRA_ROUNDS: Mapping[str, int] = {"deepinversion": 0, "fast": 10}
"""The methods, and rounds of theirs that come before those whose images are kept."""
BUDGET = 4e11  # multiplications in the teacher's forward passes for one pool: a CPU core's minute
LEAST_PER_PIXEL = 10_000  # of these, where a teacher shows fewer: a program shows none
STEPS = 60  # of each image of a dear pool, about
FEWEST = 64  # images of a pool, however dear they are
ROUND = 32  # images of a round of a dear pool,
ROUND_PIXELS = 16 * 224 * 224  # and their pixels: deep teachers keep some kilobytes of each
GAP = 4.0  # what L_bn weighs in a dear pool, over what the teacher's BatchNorm layers remember
DEAR: Mapping[str, Mapping[str, Any]] = {
    "deepinversion": {},
    "fast": {"synthesis_steps": 20, "one_hot_weight": 1.0},
}
"""What differs from the preset in a dear pool: of few rounds, each must reach its classes."""
DEAREST: Mapping[str, Mapping[str, Any]] = {
    "deepinversion": {
        "synthesis_steps": 30,
        "half_steps": 2 / 3,
        "pixel_lr": 0.3,
        "tv_weight": 1e-4,
    },
    "fast": {},
}
"""The same, beyond that, where even the fewest images are dear."""
EXTRA_DEAR: Mapping[str, int] = {"deepinversion": 0, "fast": 2}
KEPT = ("shift", "flip")  # of a task's recipe in any case: what leaves its classes as they are


@dataclass(frozen=True, slots=True)
class ControlRecipe:
    """How one control pool is made."""

    method: str
    settings: Mapping[str, Any]
    """Every setting of the method that is not its default; all rounds are one epoch's warm-up."""
    images: int
    """The last of all that are made."""
    rounds: int
    work: int
    """Images times steps of all rounds: what it costs in looks of the teacher."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a teacher costs and remembers."""

    multiplications: float
    """For one image of the task."""
    remembered: float
    """Norms of mean and variance, the mean over its BatchNorm layers; 0 without any."""
    halves: bool = True
    """Whether it takes images of half the size too: transformers and programs do not."""


def control_recipe(task: Task, cost: Cost, name: str) -> ControlRecipe:
    """How the pool of the method `name` is made from a teacher that costs this much."""
    method = load_method(name)
    known = describe(method.settings_class)  # what all methods of a task share may be others'
    space = task.space(name, method.presets.get(task.preset or "small", {}))
    settings = {key: value for key, value in space.recipe.items() if key in known}
    found = _whole(name, settings, PROBES, EXTRA_ROUNDS[name], cost)
    if found.work * cost.multiplications <= BUDGET:
        return found
    images = int(BUDGET / cost.multiplications / STEPS)
    small = {**method.presets["small"], **{key: settings[key] for key in KEPT if key in settings}}
    small |= DEAR[name] if images >= FEWEST else {**DEAR[name], **DEAREST[name]}
    if "half_steps" in small and not cost.halves:
        small["half_steps"] = 0.0
    pixels = task.shape.height * task.shape.width
    small["batch_size"] = min(ROUND, max(2, ROUND_PIXELS // pixels))
    weight = small.get("bn_weight", known["bn_weight"].default)
    small["bn_weight"] = min(weight, float(f"{GAP / max(cost.remembered, 1e-6):.2g}"))
    return _whole(name, small, max(FEWEST, min(images, PROBES)), EXTRA_DEAR[name], cost)


def _whole(
    name: str, settings: Mapping[str, Any], images: int, extra: int, cost: Cost
) -> ControlRecipe:
    """The recipe with as many rounds as the images take, and `extra` ones before."""
    built: Any = build(load_method(name).settings_class, settings, f"control pool {name}")
    rounds = -(-images // built.batch_size) + extra
    whole = {"warmup": 1, "warmup_rounds": rounds, "pool_capacity": 0, "held_out": 0.0}
    whole |= {} if cost.remembered else {"bn_weight": 0.0}
    work = rounds * built.batch_size * built.synthesis_steps
    return ControlRecipe(name, {**settings, **whole}, images, rounds, work)


@torch.no_grad()
def cost_of(teacher: Teacher, task: Task) -> Cost:
    """Counted in one forward pass, over convolutions and linear layers."""
    counted = 0.0

    def count(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal counted
        weight = layer.weight
        assert isinstance(weight, Tensor)
        counted += output.numel() * weight[0].numel()

    layers = [m for m in teacher.network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    shape = task.shape
    teacher.logits(torch.full((2, shape.channels, shape.height, shape.width), 0.5))
    for hook in hooks:
        hook.remove()
    norms = [mean.norm() + variance.norm() for mean, variance in teacher.running]
    remembered = float(torch.stack(norms).mean()) if norms else 0.0
    least = LEAST_PER_PIXEL * shape.height * shape.width
    return Cost(max(counted / 2, least), remembered, _takes_half(teacher, shape))


def _takes_half(teacher: Teacher, shape: ImageShape) -> bool:
    half = torch.full((2, shape.channels, -(-shape.height // 2), -(-shape.width // 2)), 0.5)
    try:
        teacher.logits(half)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError):  # what networks raise
        return False
    return True
