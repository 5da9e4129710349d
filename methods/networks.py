"""Classifiers by name: what a teacher or a student can be.

A name carries the whole architecture, so that a weights file and a name are enough to rebuild a
network: `convnet-24-48-64` is three 3x3 convolutions of these widths. All networks pool adaptively,
so any image size works.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from dfkd.methods.errors import ConfigError

GRAMMAR = "convnet-W1-W2-...[-nobn], for example convnet-24-48-64"


class ConvNet(nn.Module):
    """3x3 convolutions with BatchNorm and ReLU, every second one striding, then a linear head.

    Images [B, channels, H, W] to logits [B, classes].
    """

    def __init__(
        self, widths: tuple[int, ...], channels: int, classes: int, *, batch_norm: bool = True
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            stride = 2 if i % 2 else 1
            layers.append(nn.Conv2d(channels, width, 3, stride, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Linear(4 * channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return logits


def build_network(name: str, channels: int, classes: int) -> nn.Module:
    """The network called `name`, with fresh weights from torch's global generator.

    Raises ConfigError for a name outside the grammar.
    """
    match = re.fullmatch(r"convnet((?:-[1-9]\d*)+)(-nobn)?", name)
    if match is None:
        raise ConfigError(f"no network '{name}'. Known: {GRAMMAR}")
    widths = tuple(int(width) for width in match[1].split("-")[1:])
    return ConvNet(widths, channels, classes, batch_norm=match[2] is None)


def parameters(network: nn.Module) -> int:
    """How many weights a network has."""
    return sum(p.numel() for p in network.parameters())


class Normalized(nn.Module):
    """A network behind its channel normalization: takes images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits
