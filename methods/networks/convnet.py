"""Plain convolutional networks: `convnet-24-48-64` is three 3x3 convolutions of these widths."""

from __future__ import annotations

import re

from torch import Tensor, nn


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


def build(name: re.Match[str], channels: int, classes: int) -> nn.Module:
    """The network of a `convnet-` name."""
    widths = tuple(int(width) for width in name["widths"].split("-")[1:])
    return ConvNet(widths, channels, classes, batch_norm=name["nobn"] is None)
