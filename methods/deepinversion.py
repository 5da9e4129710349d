"""DeepInversion: pixels that make a teacher sure, and its BatchNorm layers see what they remember.

Paper      Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR
           2020, arXiv 1912.08795.
Reference  NVlabs/DeepInversion@2413af1, deepinversion.py (ImageNet: preset `imagenet`) and
           cifar10/deepinversion_cifar10.py (preset `paper`). It holds no student training.
Departs    L_bn is the mean over the teacher's layers, not their sum (the presets sum); pixels are
           clipped on CIFAR too, as images are kept in [0, 1]; pixels of a teacher that takes 0..255
           are in units of a quarter of that (`units`); Adam's betas are the ImageNet code's
           everywhere (the CIFAR code leaves torch's); each image is rolled and flipped on its own;
           the step of the lowest loss is kept (in effect, the reference keeps the last); as many
           batches as the epochs ask for are synthesized (the presets: all before the student).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dfkd.methods.augment import Augmentation
from dfkd.methods.inversion import Canvas, Inversion, InversionSettings
from dfkd.methods.losses import layer_gaps, total_variation, weighted
from dfkd.methods.method import Workbench
from dfkd.methods.networks import Normalized
from dfkd.methods.optimizers import adam
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.view import View

BETAS = (0.5, 0.9)  # of Adam on pixels, in the reference's settings 0 and 1
LEAST_STD = 0.1  # of a normalization in whose units steps of `pixel_lr` are neither all nor nothing
GRAY = (0.5, 0.25)  # mean and deviation of the units otherwise, about those of natural images


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepinversionSettings(InversionSettings):
    """Defaults are the paper's on CIFAR-10, but for L_bn: a mean over layers, of that weight."""

    synthesis_steps: int = setting(2000, "steps per round", at_least=1)
    bn_first_weight: float = setting(1.0, "of the first layer within L_bn", at_least=0)
    bn_momentum: float = setting(0.0, "past's share in L_bn", at_least=0, at_most=1)
    one_hot_weight: float = setting(1.0, "of L_oh", at_least=0)
    adversarial_weight: float = setting(0.0, "of L_adv", at_least=0)
    tv_weight: float = setting(2.5e-5, "of the total variation", at_least=0)
    l2_weight: float = setting(0.0, "of the images' norm", at_least=0)
    pixel_lr: float = setting(0.05, "of Adam, on normalized pixels", above=0)
    pixel_schedule: str = setting(
        "constant", "of that learning rate", choices=("constant", "cosine")
    )
    pixel_warmup: int = setting(100, "steps of linear warm-up before the cosine", at_least=0)
    half_steps: float = setting(0.0, "share of the steps at half size", at_least=0, at_most=0.9)
    jitter: float = setting(
        1 / 16, "random roll of what the teacher sees, share of the side", at_least=0, at_most=0.5
    )


class Deepinversion(Inversion):
    """Every round starts from noise; what is optimized are the pixels themselves."""

    rate: ClassVar[str] = "pixel_lr"
    settings_class: ClassVar[type[StudentSettings]] = DeepinversionSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": {
            "held_out": 0.0,
            "bn_reduction": "sum",
            "bn_weight": 10.0,
            "bn_first_weight": 1.0,
            "bn_momentum": 0.0,
            "one_hot_weight": 1.0,
            "adversarial_weight": 0.0,
            "tv_weight": 2.5e-5,
            "l2_weight": 0.0,
            "batch_size": 256,
            "synthesis_steps": 2000,
            "pixel_lr": 0.05,
            "pixel_schedule": "constant",
            "half_steps": 0.0,
            "jitter": 1 / 16,  # 2 of 32 pixels
            "warmup_rounds": 10,  # 51,200 images in 20 epochs; the paper's count was not read
            "rounds": 0,
        },
        "imagenet": {  # setting 0, with the README's weights
            "bn_reduction": "sum",
            "bn_weight": 0.01,
            "bn_first_weight": 10.0,
            "bn_momentum": 0.0,
            "one_hot_weight": 1.0,
            "adversarial_weight": 0.0,
            "tv_weight": 1e-4,
            "l2_weight": 1e-5,
            "batch_size": 84,
            "synthesis_steps": 3000,
            "pixel_lr": 0.25,
            "pixel_schedule": "cosine",
            "pixel_warmup": 100,
            "half_steps": 2 / 3,
            "jitter": 30 / 224,
            "rounds": 0,
        },
        "small": {
            "batch_size": 100,
            "synthesis_steps": 60,
            "warmup_rounds": 4,
            "rounds": 1,
            "pixel_lr": 0.1,
            "bn_weight": 3.0,
            "tv_weight": 1e-3,
            "jitter": 1 / 8,
        },
    }

    @classmethod
    def shortened(cls, settings: DeepinversionSettings, length: int) -> Mapping[str, Value]:
        """Three steps or more: the published recipe takes two of three at half size."""
        lessons = {"kd_steps": min(settings.kd_steps, length)}
        return {**super().shortened(settings, max(3, length)), **lessons}

    def __init__(self, settings: DeepinversionSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.augment = Augmentation(flip=settings.flip, roll=settings.jitter)
        self.units = units(bench.teacher.network)

    def begin(self, target: Tensor, rng: torch.Generator) -> Canvas:
        """x ~ N(0, 1) in the units that the teacher is given, if these are ordinary ones."""
        shape = self.bench.shape
        size = (len(target), shape.channels, shape.height, shape.width)
        noise = torch.randn(size, generator=rng, device=rng.device)
        return Pixels(self.settings, self.units, noise)

    def loss(self, view: View) -> Tensor:
        """L_oh + L_bn, and the priors of natural images: little variation, small norm."""
        images = (view.images - self.units.mean) / self.units.std
        return super().loss(view) + weighted(
            (self.settings.tv_weight, lambda: total_variation(images)),
            (self.settings.l2_weight, lambda: images.flatten(1).norm(dim=1).mean()),
        )

    def batch_norm_gap(self, view: View) -> Tensor:
        """L_bn, in which the first layer may count more."""
        seen = view.teacher
        gaps = layer_gaps(self.statistics.blended(seen.moments), seen.running)
        gaps = torch.cat([self.settings.bn_first_weight * gaps[:1], gaps[1:]])
        return gaps.mean() if self.settings.bn_reduction == "mean" else gaps.sum()


@dataclass(frozen=True, slots=True)
class Units:
    """What pixels are counted in: (image - mean) / std, per channel, [1, channels, 1, 1]."""

    mean: Tensor
    std: Tensor


def units(network: Normalized) -> Units:
    """The teacher's own, as everybody's weights and learning rates are meant for these.

    But a teacher that takes 0..255 has none that are of use: N(0, 1) would be black to it, and a
    learning rate of 0.1 nothing.
    """
    if bool((network.std >= LEAST_STD).all()):
        return Units(network.mean, network.std)
    gray, contrast = GRAY
    return Units(torch.full_like(network.mean, gray), torch.full_like(network.std, contrast))


class Pixels(Canvas):
    """Images in such units, clipped to what an image can be; first seen at half size."""

    def __init__(self, settings: DeepinversionSettings, units: Units, values: Tensor) -> None:
        self.settings = settings
        self.units = units
        self.black, self.white = (0 - units.mean) / units.std, (1 - units.mean) / units.std
        self.values = values.clamp(self.black, self.white).requires_grad_()
        self.half = int(settings.half_steps * settings.synthesis_steps)  # steps at half size
        self.done = 0
        self.optimizers = [self.adam()]

    @property
    def ready(self) -> bool:
        return self.done >= self.half

    def render(self) -> Tensor:
        """[B, channels, H, W] in [0, 1], or half of H and W."""
        images = self.values * self.units.std + self.units.mean
        return images if self.ready else F.avg_pool2d(images, 2, ceil_mode=True)

    def step(self, loss: Tensor) -> None:
        """A step of Adam, which is new at full size, and back into the range."""
        if self.done == self.half > 0:
            self.optimizers = [self.adam()]
        self.optimizers[0].param_groups[0]["lr"] = self.learning_rate()
        super().step(loss)
        with torch.no_grad():
            self.values.clamp_(self.black, self.white)
        self.done += 1

    def adam(self) -> torch.optim.Adam:
        return adam([self.values], self.settings.pixel_lr, BETAS)

    def learning_rate(self) -> float:
        """Constant, or at each size a linear warm-up and then a cosine to zero."""
        settings = self.settings
        if settings.pixel_schedule == "constant":
            return settings.pixel_lr
        first, end = (self.half, settings.synthesis_steps) if self.ready else (0, self.half)
        step, steps = self.done - first, end - first
        warmup = settings.pixel_warmup
        if step < warmup:
            return settings.pixel_lr * (step + 1) / warmup
        return settings.pixel_lr * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
