"""A synthetic batch under the eyes of teacher and student, for a generator's loss."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from dfkd.methods.method import Workbench
from dfkd.methods.sight import Sight


class View:
    """Nothing is computed before it is asked for, and then once; gradients reach the images."""

    def __init__(
        self,
        bench: Workbench,
        images: Tensor,
        target: Tensor | None,
        adversarial: bool,
        rng: torch.Generator,
    ) -> None:
        self.bench = bench
        self.images = images
        self.target = target
        self.adversarial = adversarial
        """Whether the student has begun to learn, so that to disagree with it means something."""
        self.rng = rng

    @property
    def labels(self) -> Tensor:
        """The wanted classes [B], of a batch that has some."""
        assert self.target is not None, "no classes were asked for"
        return self.target

    @cached_property
    def teacher(self) -> Sight:
        """The batch as the teacher sees it."""
        return self.bench.teacher.look(self.images)

    @cached_property
    def student(self) -> Sight:
        """The batch as the student sees it, frozen and in evaluation mode."""
        return self.bench.student.look(self.images)
