"""The control: distill on uniform noise. What a method is worth is what it adds to this.

Every comparison prints this row. The images are independent uniform values in [0, 1], drawn afresh
for each student step, so the control has an endless pool; all else is as in the other methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dfkd.methods.effort import Lessons
from dfkd.methods.memory import Batch, quantized
from dfkd.methods.method import Metrics, Workbench
from dfkd.methods.settings import Value
from dfkd.methods.shape import ImageShape
from dfkd.methods.student import StudentSettings
from dfkd.methods.teacher import Teacher


@dataclass(frozen=True, slots=True)
class UniformNoise:
    """An endless source of uniform noise."""

    shape: ImageShape

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """Fresh images [count, channels, H, W] in [0, 1); nobody asked for classes."""
        size = (count, self.shape.channels, self.shape.height, self.shape.width)
        return Batch(torch.rand(size, generator=rng, device=rng.device))


class Noise(Lessons):
    """Nothing is synthesized; the student learns from the teacher's answers to noise."""

    settings_class: ClassVar[type[StudentSettings]] = StudentSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {}

    def __init__(self, settings: StudentSettings, bench: Workbench) -> None:
        self.settings = settings
        self.bench = bench
        self.source = UniformNoise(bench.shape)

    @staticmethod
    def objections(settings: StudentSettings, teacher: Teacher) -> list[str]:
        return []

    def epoch(self, epoch: int, rng: torch.Generator) -> Metrics:
        """Distill; the warm-up epochs, in which others synthesize, pass idle."""
        if epoch < self.settings.warmup:
            return {}
        settings, bench = self.settings, self.bench
        with bench.clock("distillation"):
            metrics = bench.student.distill(bench.teacher, self.source, epoch, rng)
        return metrics | {"images_made": settings.kd_steps * settings.kd_batch_size}

    def probes(self, count: int, rng: torch.Generator) -> Tensor:
        return quantized(self.source.sample(count, rng).images)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        return
