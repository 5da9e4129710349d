"""The student and how it learns from a teacher's answers: the part that all methods share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dfkd.methods.augment import Augmentation
from dfkd.methods.errors import TrialFailed
from dfkd.methods.losses import divergence, logit_distance
from dfkd.methods.memory import Batch, ImageSource
from dfkd.methods.optimizers import sgd
from dfkd.methods.precision import PRECISIONS
from dfkd.methods.settings import check, describe, setting
from dfkd.methods.sight import Observer, Sight
from dfkd.methods.teacher import Teacher
from dfkd.methods.team import Team

Lesson = Callable[[Batch, Sight, Sight], Tensor]
"""The loss of one student step, from the batch and how student and teacher see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSettings:
    """What every method's settings begin with: how the student learns."""

    warmup: int = setting(20, "epochs of synthesis before the student starts", at_least=0)
    kd_steps: int = setting(400, "student steps per epoch", at_least=1)
    kd_batch_size: int = setting(512, "images per student step, over all workers", at_least=1)
    kd_loss: str = setting("kl", "kl: softened classes; l1: logits", choices=("kl", "l1"))
    temperature: float = setting(20.0, "softening of both answers in the KD loss", above=0)
    student_lr: float = setting(0.2, "first learning rate; a cosine takes it to 0.1 %", above=0)
    momentum: float = setting(0.9, "of the student's SGD", at_least=0, at_most=0.999)
    weight_decay: float = setting(1e-4, "of the student's SGD", at_least=0)
    clip_norm: float = setting(5.0, "bound on the gradient's norm; 0: none", at_least=0)
    shift: int = setting(4, "augmentation: random shift, pixels", at_least=0)
    flip: bool = setting(True, "augmentation: random mirror image; false for digits and letters")
    precision: str = setting("float32", "of all passes in training", choices=PRECISIONS)
    accumulation: int = setting(1, "passes that a student step is split into", at_least=1)

    def __post_init__(self) -> None:
        check(self)


LEARNING = frozenset(describe(StudentSettings)) - {"warmup", "shift", "flip", "precision"}
"""The settings among these that nothing but the student's learning reads."""


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
        self._observer = Observer(network, settings.precision)
        self.looks = 0  # how often anybody asked the network anything
        network.register_forward_pre_hook(self._count_look)
        self._heads = nn.ModuleList()
        self._augment = Augmentation(settings.shift, settings.flip)
        self._optimizer = sgd(
            network.parameters(), settings.student_lr, settings.momentum, settings.weight_decay
        )

    @property
    def head(self) -> nn.Linear | None:
        """The last linear layer, whose input is the embedding of an image; None without one."""
        return self._observer.layers.head

    def adopt(self, head: nn.Module) -> None:
        """Train `head` along with the network, on what the lessons make of it.

        Workers' first weights may differ: they are averaged.
        """
        with torch.no_grad():
            for p in head.parameters():
                p.copy_(self.team.total(p) / self.team.size)
        self._heads.append(head)
        self._optimizer.add_param_group({"params": list(head.parameters())})

    @contextmanager
    def frozen(self) -> Iterator[nn.Module]:
        """The network in evaluation mode without gradients of its own, for a generator's loss."""
        learning = [p for p in self._parameters() if p.requires_grad]
        self.network.eval()
        for p in learning:
            p.requires_grad_(False)
        try:
            yield self.network
        finally:
            for p in learning:
                p.requires_grad_(True)

    def look(self, images: Tensor) -> Sight:
        """Images [B, channels, H, W] in [0, 1] as the network sees them."""
        through = self._trained if self.network.training else self.network
        return self._observer.look(images, through)

    def distill(
        self,
        teacher: Teacher,
        source: ImageSource,
        epoch: int,
        rng: torch.Generator,
        lesson: Lesson | None = None,
    ) -> dict[str, float]:
        """One epoch: `kd_steps` steps on images from `source`; returns the mean loss.

        Raises TrialFailed when the loss is not finite.
        """
        batch = self.begin(epoch)
        total = torch.zeros((), device=rng.device)
        for _ in range(self.settings.kd_steps):
            total += self.learn(teacher, source.sample(batch, rng), rng, lesson)
        return self.end(epoch, total)

    def begin(self, epoch: int) -> int:
        """Set the epoch's learning rate; returns how many images this worker's steps take."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(epoch)
        return math.ceil(self.settings.kd_batch_size / self.team.size)

    def learn(
        self, teacher: Teacher, batch: Batch, rng: torch.Generator, lesson: Lesson | None = None
    ) -> Tensor:
        """One step on one batch, augmented here; returns the loss, by default that of KD.

        With `accumulation` the batch passes in as many parts, whose gradients add up: the memory
        of one part, the step of all; BatchNorm layers see one part at a time.
        """
        self._trained.train()
        batch = replace(batch, images=self._augment(batch.images, rng))
        parts = batch.split(self.settings.accumulation)
        self._optimizer.zero_grad()
        loss = torch.zeros((), device=batch.images.device)
        for part in parts:
            with nullcontext() if part is parts[-1] else self.team.apart(self._trained):
                share = len(part.images) / len(batch.images)
                loss += self._pass_back(teacher, part, share, lesson)
        for p in self._heads.parameters():  # the network's are averaged by `team.parallel`
            p.grad = self.team.total(p.grad) / self.team.size if p.grad is not None else None
        if self.settings.clip_norm:
            for module in (self.network, *self._heads):  # a head must not slow the network down
                nn.utils.clip_grad_norm_(module.parameters(), self.settings.clip_norm)
        self._optimizer.step()
        return loss

    def _pass_back(
        self, teacher: Teacher, batch: Batch, share: float, lesson: Lesson | None
    ) -> Tensor:
        """Add the gradient of `share` times a batch's loss; returns that product."""
        with torch.no_grad():  # what the teacher's layers saw takes memory, so only for lessons
            theirs = teacher.look(batch.images, deep=lesson is not None)
        loss = (lesson or self.kd)(batch, self.look(batch.images), theirs) * share
        loss.backward()
        return loss.detach()

    def kd(self, batch: Batch, mine: Sight, theirs: Sight) -> Tensor:
        """The KD loss of the settings: temperature^2 KL(teacher || student), or L1 of logits."""
        if self.settings.kd_loss == "l1":
            return logit_distance(mine.logits, theirs.logits, batch.weights)
        temperature = self.settings.temperature
        gaps = divergence(mine.logits, theirs.logits, temperature)
        if batch.weights is not None:
            gaps = gaps * batch.weights
        return gaps.mean() * temperature**2

    def end(self, epoch: int, total: Tensor) -> dict[str, float]:
        """The epoch's mean loss over all workers; raises TrialFailed when it is not finite."""
        mean = float(self.team.total(total)) / (self.settings.kd_steps * self.team.size)
        if not math.isfinite(mean):
            raise TrialFailed(
                f"the student's loss is {mean} in epoch {epoch}; "
                f"try a student_lr below {self.settings.student_lr:g} or a clip_norm"
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
        return {
            "network": self.network.state_dict(),
            "heads": self._heads.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become the student whose `state()` this is."""
        self.network.load_state_dict(state["network"])
        self._heads.load_state_dict(state["heads"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _count_look(self, network: nn.Module, inputs: Any) -> None:
        self.looks += 1

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.network.parameters(), *self._heads.parameters()]
