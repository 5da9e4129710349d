"""The student and how it learns from a teacher's answers: the part that all methods share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dfkd.methods.augment import Augmentation
from dfkd.methods.errors import TrialFailed
from dfkd.methods.losses import distillation
from dfkd.methods.memory import ImageSource
from dfkd.methods.settings import check, setting
from dfkd.methods.teacher import Teacher
from dfkd.methods.team import Team


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSettings:
    """What every method's settings begin with: how the student learns."""

    warmup: int = setting(20, "epochs of synthesis before the student starts", at_least=0)
    kd_steps: int = setting(400, "student steps per epoch", at_least=1)
    kd_batch_size: int = setting(512, "images per student step, over all workers", at_least=1)
    temperature: float = setting(20.0, "softening of both answers in the KD loss", above=0)
    student_lr: float = setting(0.2, "first learning rate; a cosine takes it to 0.1 %", above=0)
    momentum: float = setting(0.9, "of the student's SGD", at_least=0, at_most=0.999)
    weight_decay: float = setting(1e-4, "of the student's SGD", at_least=0)
    clip_norm: float = setting(5.0, "bound on the gradient's norm; 0: none", at_least=0)
    shift: int = setting(4, "augmentation: random shift, pixels", at_least=0)
    flip: bool = setting(True, "augmentation: random mirror image; false for digits and letters")

    def __post_init__(self) -> None:
        check(self)


class Student:
    """A network in training by SGD with a cosine schedule from epoch `warmup` to `epochs`."""

    def __init__(
        self, network: nn.Module, settings: StudentSettings, epochs: int, team: Team
    ) -> None:
        self.network = network
        self.settings = settings
        self.epochs = epochs
        self.team = team
        self._trained = team.parallel(network)
        self._augment = Augmentation(settings.shift, settings.flip)
        self._optimizer = torch.optim.SGD(
            network.parameters(),
            lr=settings.student_lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    @contextmanager
    def frozen(self) -> Iterator[nn.Module]:
        """The network in evaluation mode without gradients of its own, for a generator's loss."""
        learning = [p for p in self.network.parameters() if p.requires_grad]
        self.network.eval().requires_grad_(False)
        try:
            yield self.network
        finally:
            for p in learning:
                p.requires_grad_(True)

    def distill(
        self, teacher: Teacher, source: ImageSource, epoch: int, rng: torch.Generator
    ) -> dict[str, float]:
        """One epoch of KD: `kd_steps` steps on images from `source`; returns the mean loss.

        Raises TrialFailed when the loss is not finite.
        """
        settings = self.settings
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(epoch)
        batch = math.ceil(settings.kd_batch_size / self.team.size)
        self._trained.train()
        total = torch.zeros((), device=rng.device)
        for _ in range(settings.kd_steps):
            images = self._augment(source.sample(batch, rng)[0], rng)
            with torch.no_grad():
                answers = teacher.logits(images)
            loss = distillation(self._trained(images), answers, settings.temperature)
            self._optimizer.zero_grad()
            loss.backward()
            if settings.clip_norm:
                nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
            self._optimizer.step()
            total += loss.detach()
        mean = float(self.team.total(total)) / (settings.kd_steps * self.team.size)
        if not math.isfinite(mean):
            raise TrialFailed(
                f"the student's loss is {mean} in epoch {epoch}; "
                f"try a student_lr below {settings.student_lr:g} or a clip_norm"
            )
        return {"kd_loss": mean}

    def learning_rate(self, epoch: int) -> float:
        """Cosine from student_lr to a thousandth of it over the epochs after the warm-up."""
        first, last = self.settings.student_lr, self.settings.student_lr / 1000
        span = max(1, self.epochs - self.settings.warmup)
        done = min(max(epoch - self.settings.warmup, 0) / span, 1.0)
        return last + (first - last) * (1 + math.cos(math.pi * done)) / 2

    def state(self) -> dict[str, Any]:
        """Weights and optimizer, for a checkpoint."""
        return {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Become the student whose `state()` this is."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
