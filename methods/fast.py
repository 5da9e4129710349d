"""FastDFKD: a generator that is meta-learned to invert a teacher in a few steps.

Paper      Fang et al., "Up to 100x Faster Data-Free Knowledge Distillation", AAAI 2022,
           arXiv 2112.06253.
Reference  zju-vipa/Fast-Datafree@0dcecbc, datafree/synthesis/fast_meta.py.
Departs    The adversary waits for the end of the warm-up (the reference starts it one epoch before
           the student); L_bn is the mean over layers (preset `paper` sums); the re-initialization
           after a fixed epoch of the reference (`reset_epoch`) draws the first linear layer anew
           and leaves the BatchNorm after it, whose scale the reference overwrites with N(0, 0.02).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dfkd.methods.generators import LatentGenerator
from dfkd.methods.inversion import Canvas, Inversion, InversionSettings
from dfkd.methods.method import Workbench
from dfkd.methods.optimizers import adam
from dfkd.methods.random_streams import global_stream
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings

REPTILE_GAIN = 67.0  # fast_meta.py of the reference; the paper gives no value


@dataclass(frozen=True, slots=True, kw_only=True)
class FastSettings(InversionSettings):
    """Defaults are the reference's Fast-5 on CIFAR, but for L_bn: a mean over layers, weight 1."""

    synthesis_steps: int = setting(5, "K: inner steps per batch", at_least=1)
    one_hot_weight: float = setting(0.4, "of L_oh", at_least=0)
    adversarial_weight: float = setting(1.1, "of L_adv", at_least=0)
    latent: int = setting(256, "numbers of noise per image", at_least=1)
    latent_lr: float = setting(0.01, "of the noise, in the inner Adam", at_least=0)
    generator_lr: float = setting(3e-3, "of the inner Adam; the outer's is K times it", above=0)
    generator_width: int = setting(64, "channels of the generator's last stage", at_least=1)
    meta: str = setting(
        "fomaml", "how the generator learns to start", choices=("fomaml", "reptile", "none")
    )
    reptile_gain: float = setting(REPTILE_GAIN, "of Reptile's step", above=0)
    reset_epoch: int = setting(0, "epoch that redraws the first layer; 0: never", at_least=0)


class Fast(Inversion):
    """Per round: copy the meta-generator, invert with the copy, learn from how it went."""

    settings_class: ClassVar[type[StudentSettings]] = FastSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": {
            "held_out": 0.0,
            "bn_reduction": "sum",
            "bn_weight": 10.0,
            "bn_momentum": 0.9,
            "one_hot_weight": 0.4,
            "adversarial_weight": 1.1,
            "synthesis_steps": 5,
            "latent_lr": 0.01,
            "generator_lr": 3e-3,
            "meta": "fomaml",
            "reset_epoch": 140,  # 120 after the warm-up
            "temperature": 20.0,
            "student_lr": 0.2,
            "clip_norm": 0.0,
        },
        "small": {
            "batch_size": 100,
            "synthesis_steps": 10,
            "warmup_rounds": 4,
            "rounds": 2,
            "generator_width": 8,
            "latent": 64,
        },
    }

    def __init__(self, settings: FastSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.renew(bench.seed)

    def renew(self, seed: int) -> None:
        """A meta-generator with first weights, and its optimizer."""
        settings, bench = self.settings, self.bench
        with global_stream(bench.device, "generator", seed):
            generator = LatentGenerator(
                settings.latent,
                bench.shape,
                settings.generator_width,
                precision=settings.precision,
            )
        self.generator = generator.to(bench.device)  # theta
        self.outer = adam(
            self.generator.parameters(), settings.generator_lr * settings.synthesis_steps
        )

    def start_over(self, rng: torch.Generator) -> None:
        self.renew(int(torch.randint(2**62, (), generator=rng, device=rng.device)))

    def before_rounds(self, epoch: int, rng: torch.Generator) -> None:
        if self.settings.reset_epoch and epoch == self.settings.reset_epoch:
            with torch.no_grad():
                for name, p in self.generator.trunk.seeds.named_parameters():
                    p.normal_(0.0, 0.02, generator=rng) if "weight" in name else p.zero_()

    def targets(self, rng: torch.Generator) -> Tensor:
        """Classes drawn at random, as the reference does."""
        size = (self.settings.batch_size,)
        return torch.randint(self.bench.classes, size, generator=rng, device=rng.device)

    def begin(self, target: Tensor, rng: torch.Generator) -> Canvas:
        """Algorithm 1: theta' <- theta, fresh noise, and both are optimized for this batch."""
        settings = self.settings
        fast = copy.deepcopy(self.generator)
        noise = self.generator.draw(len(target), rng).requires_grad_()
        inner = adam(
            [
                {"params": list(fast.parameters())},
                {"params": [noise], "lr": settings.latent_lr},
            ],
            settings.generator_lr,
        )
        return MetaCanvas(render=lambda: fast(noise), optimizers=[inner], fast=fast, learner=self)

    def synthesis_state(self) -> dict[str, Any]:
        meta = {"generator": self.generator.state_dict(), "outer": self.outer.state_dict()}
        return super().synthesis_state() | meta

    def restore_synthesis(self, state: dict[str, Any]) -> None:
        super().restore_synthesis(state)
        self.generator.load_state_dict(state["generator"])
        self.outer.load_state_dict(state["outer"])


@dataclass(kw_only=True)
class MetaCanvas(Canvas):
    """One inversion from which the meta-generator learns where to start the next."""

    fast: nn.Module
    learner: Fast

    def __post_init__(self) -> None:
        self.learner.outer.zero_grad()

    def step(self, loss: Tensor) -> None:
        """An inner step; first-order MAML sums the gradients of all of them."""
        optimizer = self.optimizers[0]
        optimizer.zero_grad()
        loss.backward()
        if self.learner.settings.meta == "fomaml":
            add_gradient(self.learner.generator, self.fast)
        optimizer.step()

    def finish(self, best: Tensor) -> None:
        """The outer step: theta <- theta - outer_lr Adam(gradient)."""
        settings = self.learner.settings
        if settings.meta == "reptile":
            add_difference(self.learner.generator, self.fast, settings.reptile_gain)
        self.learner.outer.step()  # without gradients, for meta=none, it does nothing


@torch.no_grad()
def add_gradient(onto: nn.Module, source: nn.Module) -> None:
    """Add the gradient of every parameter of `source` to the same parameter of `onto`."""
    for p, q in zip(onto.parameters(), source.parameters(), strict=True):
        if q.grad is not None:
            p.grad = q.grad.clone() if p.grad is None else p.grad + q.grad


@torch.no_grad()
def add_difference(onto: nn.Module, source: nn.Module, gain: float) -> None:
    """Add gain (theta - theta') to the gradient, so that a step moves theta to theta' (Reptile)."""
    for p, q in zip(onto.parameters(), source.parameters(), strict=True):
        difference = gain * (p - q)
        p.grad = difference if p.grad is None else p.grad + difference
