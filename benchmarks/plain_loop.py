"""NAYER as a careful person writes it without a library: what benchmarks/step.py is held to.

The same arithmetic, straight in PyTorch, with what its documentation recommends: frozen networks,
hooks for the statistics, all noisy layers in one product, networks channels last, torch.optim as it
comes, a pool that is a tensor, evaluation without gradients. No orchestration, no checkpoint, no
augmentation of what the generator learns from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of `step.CASES["reference"]`."""

    steps: int = 10
    batch: int = 100
    layers: int = 10
    embedding: int = 512
    noisy: int = 1000
    width: int = 64
    kd_steps: int = 60
    kd_batch: int = 128
    pixels: int = 32
    classes: int = 10


class Generator(nn.Module):
    """Label embeddings to images of 3 x pixels x pixels."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        wide, narrow, self.side = 2 * sizes.width, sizes.width, sizes.pixels // 4
        self.weight = nn.Parameter(torch.randn(sizes.layers, sizes.embedding, sizes.noisy))
        self.bias = nn.Parameter(torch.zeros(sizes.layers, 1, sizes.noisy))
        self.spread = nn.BatchNorm1d(sizes.embedding)
        self.seed = nn.Linear(sizes.noisy, wide * self.side**2)
        up = nn.Upsample(scale_factor=2)
        self.trunk = nn.Sequential(
            nn.Unflatten(1, (wide, self.side, self.side)),
            nn.BatchNorm2d(wide),
            up,
            nn.Conv2d(wide, wide, 3, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.LeakyReLU(0.2, inplace=True),
            up,
            nn.Conv2d(wide, narrow, 3, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(narrow, 3, 3, padding=1),
            nn.Sigmoid(),
        ).to(memory_format=torch.channels_last)

    def forward(self, rows: Tensor) -> Tensor:
        layers = len(self.weight)
        spread = self.spread(rows).view(len(rows) // layers, layers, -1).transpose(0, 1)
        mixed = torch.baddbmm(self.bias, spread, self.weight).transpose(0, 1).flatten(0, 1)
        images: Tensor = self.trunk(self.seed(mixed))
        return images


class PlainLoop:
    """An epoch to call: one round of synthesis, KD from the pool, evaluation on `tests`."""

    def __init__(
        self, teacher: nn.Module, student: nn.Module, tests: Tensor, precision: str, sizes: Sizes
    ) -> None:
        self.teacher = teacher.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.student = student.to(memory_format=torch.channels_last)
        self.tests, self.sizes, self.half = tests, sizes, precision == "bfloat16"
        self.gaps: list[Tensor] = []
        for norm in (m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.register_forward_pre_hook(self.look)
        self.generator = Generator(sizes)
        self.embeddings = torch.randn(sizes.classes, sizes.embedding)
        self.labels = torch.arange(sizes.classes).repeat(sizes.batch // sizes.classes)
        size = (20 * sizes.batch, 3, sizes.pixels, sizes.pixels)
        self.pool = torch.randint(0, 256, size).to(torch.uint8)
        self.sgd = torch.optim.SGD(student.parameters(), 0.1, 0.9, weight_decay=1e-4)

    def epoch(self) -> None:
        self.synthesize()
        self.distill()
        self.evaluate()

    def synthesize(self) -> None:
        with torch.no_grad():
            self.generator.weight.normal_()
        adam = torch.optim.Adam(self.generator.parameters(), 4e-3, (0.5, 0.999))
        self.student.eval().requires_grad_(False)
        for _ in range(self.sizes.steps):
            self.gaps.clear()
            with self.passing():
                images = self.generator(self.embeddings[self.labels])
                theirs, mine = self.teacher(images).float(), self.student(images).float()
            same = (theirs.argmax(1) == mine.argmax(1)).float()
            apart = (soft(mine, theirs, 1.0) * same).mean()
            loss = 10 * torch.stack(self.gaps).sum() - 1.33 * apart
            loss = loss + 0.5 * F.cross_entropy(theirs, self.labels)
            adam.zero_grad()
            loss.backward()
            adam.step()
        self.pool[: self.sizes.batch] = (images.detach() * 255).to(torch.uint8)

    def distill(self) -> None:
        self.student.train().requires_grad_(True)
        for _ in range(self.sizes.kd_steps):
            batch = self.pool[torch.randint(len(self.pool), (self.sizes.kd_batch,))].float() / 255
            with self.passing():
                with torch.no_grad():
                    theirs = self.teacher(batch)
                mine = self.student(batch)
            loss = 400 * soft(mine.float(), theirs.float(), 20.0).mean()
            self.sgd.zero_grad()
            loss.backward()
            self.sgd.step()

    @torch.no_grad()
    def evaluate(self) -> None:
        self.student.eval()
        for part in self.tests.split(256):
            self.student(part).argmax(1)

    def passing(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, self.half)

    def look(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].requires_grad:
            variance, mean = torch.var_mean(inputs[0].float(), (0, 2, 3), unbiased=False)
            self.gaps.append(
                (mean - norm.running_mean).norm() + (variance - norm.running_var).norm()
            )


def soft(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) per image."""
    log_q, log_p = (F.log_softmax(x / temperature, 1) for x in (student, teacher))
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
