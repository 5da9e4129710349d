"""The skeleton of the methods in which a generator and a student play against each other.

The generator takes `generator_steps` steps, then the student `student_steps`, each on a fresh
batch, and so on. DAFL, DFQ, ZSKT, DFAD and their descendants differ in the generator's loss, in
what the student is taught, and in the memory that is mixed into its batches.

All depart from their papers in some things: one generator serves them all, which ends in a sigmoid
(images are in [0, 1]) where theirs end in tanh or BatchNorm; the student's learning rate follows a
cosine, the generator's is constant; the student is in evaluation mode while the generator learns,
the generator always in training mode; the generator's Adam has betas (0.5, 0.999), where DFAD, ZSKT
and PRE-DFKD leave torch's default.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from dfkd.methods.effort import Turns
from dfkd.methods.errors import TrialFailed
from dfkd.methods.generators import LatentGenerator
from dfkd.methods.memory import Batch, ImageSource, quantized
from dfkd.methods.method import Metrics, Workbench
from dfkd.methods.optimizers import adam
from dfkd.methods.random_streams import global_stream
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import Lesson, StudentSettings
from dfkd.methods.teacher import Teacher
from dfkd.methods.view import View

# What the references leave out, for the `paper` presets: a task's own settings may have it.
PLAIN: Mapping[str, Value] = {"shift": 0, "flip": False, "clip_norm": 0.0}
# What all `small` presets have in common: a generator for small images on a CPU.
SMALL: Mapping[str, Value] = {"generator_width": 8, "latent": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class GameSettings(StudentSettings):
    """What all games have in common; defaults are those of most papers on CIFAR."""

    warmup: int = setting(0, "epochs of the generator alone", at_least=0)
    kd_batch_size: int = setting(256, "images per student step, over all workers", at_least=1)
    temperature: float = setting(1.0, "softening of both answers in the KD loss", above=0)
    student_lr: float = setting(0.1, "first learning rate; a cosine takes it to 0.1 %", above=0)
    weight_decay: float = setting(5e-4, "of the student's SGD", at_least=0)
    shift: int = setting(0, "augmentation: random shift, pixels", at_least=0)
    flip: bool = setting(False, "augmentation: random mirror image; false for digits and letters")
    batch_size: int = setting(256, "images per generator step", at_least=2)
    student_steps: int = setting(5, "student steps between the generator's", at_least=1)
    generator_steps: int = setting(1, "generator steps in a row", at_least=1)
    generator_lr: float = setting(1e-3, "of Adam", above=0)
    generator_clip: float = setting(0.0, "bound on its gradient's norm; 0: none", at_least=0)
    generator_width: int = setting(64, "channels of the generator's last stage", at_least=1)
    latent: int = setting(256, "numbers of noise per image", at_least=1)


class Fresh:
    """The generator as the student's source: new noise for every batch, no gradients."""

    def __init__(self, generator: LatentGenerator, classes: int) -> None:
        self.generator = generator
        self.classes = classes

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Noise [count, latent], and classes [count] if the generator is conditioned on them."""
        noise = self.generator.draw(count, rng)
        if self.generator.classes is None:
            return noise, None
        return noise, torch.randint(self.classes, (count,), generator=rng, device=rng.device)

    @torch.no_grad()
    def sample(self, count: int, rng: torch.Generator) -> Batch:
        noise, target = self.draw(count, rng)
        return Batch(self.generator(noise, target), target)


class Game(Turns, ABC):
    """A method with one generator that lives as long as the trial. Each worker has its own."""

    settings_class: ClassVar[type[StudentSettings]]
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {}
    conditional: ClassVar[bool] = False
    """Whether the generator is told a class."""

    def __init__(self, settings: Any, bench: Workbench) -> None:
        self.settings = settings
        self.bench = bench
        with global_stream(bench.device, "generator", bench.seed):
            self.generator = self.new_generator().to(bench.device)
        self.adam = adam(self.generator.parameters(), settings.generator_lr)
        self.fresh = Fresh(self.generator, bench.classes)
        self.present = 0  # the epoch that is running
        self.drawn: tuple[Tensor, Tensor | None]  # noise and classes of the generator's last step

    # What a method decides

    @abstractmethod
    def loss(self, view: View) -> Tensor:
        """What the generator minimizes."""

    def new_generator(self) -> LatentGenerator:
        """The generator with its first weights."""
        settings, bench = self.settings, self.bench
        classes = bench.classes if self.conditional else 0
        return LatentGenerator(
            settings.latent, bench.shape, settings.generator_width, classes, settings.precision
        )

    @property
    def source(self) -> ImageSource:
        return self.fresh

    @property
    def lesson(self) -> Lesson | None:
        """What the student is taught; None: KD."""
        return None

    def batch(self, count: int, rng: torch.Generator) -> Batch:
        """What the student is shown in its next step."""
        return self.source.sample(count, rng)

    @property
    def generators(self) -> list[LatentGenerator]:
        """Everything that makes images."""
        return [self.generator]

    def after_generator(self, view: View, rng: torch.Generator) -> None:
        """After the generator's turn, on its last batch."""

    def after_student(self, batch: Batch, step: int, rng: torch.Generator) -> None:
        """After a step of the student, the `step`-th since the generator's turn."""

    # The algorithm

    @staticmethod
    def objections(settings: Any, teacher: Teacher) -> list[str]:
        found = []
        if getattr(settings, "bn_weight", 0) and not teacher.batch_norms:
            found.append(
                "the teacher has no BatchNorm layer, so its statistics cannot be matched; set "
                "bn_weight=0 to play without"
            )
        if getattr(settings, "activation_weight", 0) and teacher.head is None:
            found.append(
                "the teacher has no linear head, so it has no features to activate; set "
                "activation_weight=0 to play without"
            )
        return found

    def epoch(self, epoch: int, rng: torch.Generator) -> Metrics:
        """`kd_steps` steps of the student, the generator's in between; warm-up: only those."""
        settings, bench = self.settings, self.bench
        student = bench.student
        learning = epoch >= settings.warmup
        self.present = epoch
        count = student.begin(epoch)
        lost, total = torch.zeros(2, device=rng.device)
        turns, before = 0, self.rendered
        for step in range(settings.kd_steps):
            if step % settings.student_steps == 0:
                with bench.clock("synthesis"):
                    lost += self.train_generator(adversarial=learning, rng=rng)
                turns += 1
            if learning:
                with bench.clock("distillation"):
                    batch = self.batch(count, rng)
                    total += student.learn(bench.teacher, batch, rng, self.lesson)
                    self.after_student(batch, step % settings.student_steps, rng)
        if not torch.isfinite(lost):
            raise TrialFailed(
                f"the generator's loss is {float(lost)} in epoch {epoch}; "
                f"try a generator_lr below {settings.generator_lr:g}"
            )
        metrics = student.end(epoch, total) if learning else {}
        made = bench.team.total(torch.tensor(float(self.rendered - before)))
        return metrics | {"generator_loss": float(lost) / turns, "images_made": float(made)}

    @property
    def rendered(self) -> int:
        """Images that this worker's generators have made since they were built."""
        return sum(generator.rendered for generator in self.generators)

    def train_generator(self, *, adversarial: bool, rng: torch.Generator) -> Tensor:
        """The generator's turn; returns its last loss."""
        settings = self.settings
        with self.bench.student.frozen():
            for _ in range(settings.generator_steps):
                noise, target = self.drawn = self.fresh.draw(settings.batch_size, rng)
                view = View(self.bench, self.generator(noise, target), target, adversarial, rng)
                loss = self.loss(view)
                if loss.requires_grad:  # a purely adversarial one waits for the student
                    self.adam.zero_grad()
                    loss.backward()
                    if settings.generator_clip:
                        clip_grad_norm_(self.generator.parameters(), settings.generator_clip)
                    self.adam.step()
        self.after_generator(view, rng)
        return loss.detach()

    def probes(self, count: int, rng: torch.Generator) -> Tensor:
        """New images of the generator's."""
        return quantized(self.fresh.sample(count, rng).images)

    def state(self) -> dict[str, Any]:
        return {"generator": self.generator.state_dict(), "adam": self.adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.adam.load_state_dict(state["adam"])
