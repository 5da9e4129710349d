"""The networks' own passes in a trial of NAYER, on data that lies ready, and nothing beside them.

No loss but a sum, no optimizer, no augmentation, no pool, nothing drawn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfkd.orchestrator.trials import Trial


class Passes:
    """Those of a trial's epoch in which the student learns; a step of each kind can be called."""

    def __init__(self, trial: Trial) -> None:
        self.settings: Any = trial.method.settings
        nayer: Any = trial.method
        trial.step()  # so that there is a generator, and memory has been allocated once
        self.teacher, self.student = nayer.bench.teacher.network, trial.network
        self.generator, self.device = nayer.generator, trial.device
        draws = torch.Generator(trial.device).manual_seed(0)
        self.target = nayer.targets(draws)
        shape = trial.task.shape
        size = (self.settings.kd_batch_size, shape.channels, shape.height, shape.width)
        self.batch = torch.rand(size, generator=draws, device=trial.device)
        data = trial.surroundings.evaluation
        parts = [] if data is None else list(data.batches(trial.device))
        self.tests = [images.float() / 255 for images, _ in parts]

    def epoch(self) -> None:
        """All of them, as often as an epoch has them."""
        self.begin_synthesis()
        for _ in range(self.settings.rounds * self.settings.synthesis_steps):
            self.synthesis_step()
        self.begin_distillation()
        for _ in range(self.settings.kd_steps):
            self.kd_step()
        self.evaluation()

    def begin_synthesis(self) -> None:
        """Make the student as it is while the generator learns."""
        self.student.eval()
        self.student.requires_grad_(False)

    def begin_distillation(self) -> None:
        """Make the student as it is while it learns."""
        self.student.train()
        self.student.requires_grad_(True)

    def synthesis_step(self) -> None:
        """Generator, teacher and student forward, and back through all three."""
        self.generator.zero_grad()
        self.seen().backward()

    def seen(self) -> Tensor:
        """The forward half of such a step."""
        with self._computing():
            images = self.generator(self.target)
            return summed(self.teacher(images), self.student(images))

    def kd_step(self) -> None:
        """The teacher forward, the student forward and back."""
        with self._computing():
            with torch.no_grad():
                self.teacher(self.batch)
            loss = summed(self.student(self.batch))
        self.student.zero_grad()
        loss.backward()

    @torch.no_grad()
    def evaluation(self) -> None:
        """The student forward, in float32 as it is exported."""
        self.student.eval()
        for images in self.tests:
            self.student(images)

    def _computing(self) -> torch.autocast:
        """Weights change from step to step, so that a step casts its own."""
        half = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, half)


def summed(*logits: Tensor) -> Tensor:
    """All answers in one number, to pass back from."""
    return torch.stack([answers.float().sum() for answers in logits]).sum()
