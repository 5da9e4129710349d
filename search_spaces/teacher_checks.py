"""Whether a teacher can teach a task: looked at before anything is synthesized from it."""

from __future__ import annotations

import math

import torch

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import parameters, require_logits
from dfkd.methods.random_streams import stream
from dfkd.methods.teacher import Teacher
from dfkd.search_spaces.task import Task

ENOUGH = 20  # images that say something about an accuracy


@torch.no_grad()
def examine(task: Task, teacher: Teacher, title: str) -> str:
    """One sentence about a teacher that answers as it should.

    Raises ConfigError where it cannot take the task's images, has another number of classes, or
    answers with numbers that are not finite.
    """
    shape = task.shape
    require_logits(teacher.network, title, shape, len(task.classes))
    rng = stream("cpu", "teacher check")
    images = torch.rand(2, shape.channels, shape.height, shape.width, generator=rng)
    if not teacher.logits(images).isfinite().all():
        raise ConfigError(f"{title} answers with numbers that are not finite")
    found = teacher.batch_norms
    layers = f"{found} BatchNorm layers" if found else "no BatchNorm layer, which L_bn needs"
    return f"{title}: {parameters(teacher.network):,} parameters, {layers}"


def doubt(accuracy: float, images: int, classes: int) -> str | None:
    """A warning about a teacher that is no better than chance, two standard errors allowed.

    >>> doubt(0.93, 1000, 10) is None
    True
    >>> doubt(0.11, 1000, 10)[:53]
    'the teacher is right about 11.0 % of 1,000 images, no'
    """
    chance = 1 / classes
    if images < ENOUGH or accuracy > chance + 2 * math.sqrt(chance * (1 - chance) / images):
        return None
    return (
        f"the teacher is right about {100 * accuracy:.1f} % of {images:,} images, no more than by "
        f"chance ({100 * chance:.1f} %): see that the task's normalization (normalize) and the "
        "order of its classes are the teacher's, and its network the one that it was trained as"
    )
