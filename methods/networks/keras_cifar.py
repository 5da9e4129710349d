"""`keras-cifar10`: the network of a public Keras classifier of CIFAR-10, BatchNorm after each ReLU.

Its trained weights are in the package cifar-10-model (BSD-3); benchmarks/real_teachers.py converts
them. It takes pixels in 0..255, so its normalization is mean 0 and standard deviation 1/255.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

WIDTHS = ((64, 64), (128, 128), (64, 64))
EPSILON = 1e-3  # Keras's default


class KerasCifar(nn.Module):
    """Three pairs of unpadded 3x3 convolutions, pooling between them, three linear layers.

    Images [B, channels, H, W] of 32 pixels or more to logits [B, classes]. The original ends in
    another ReLU, which would hide all negative logits and is left out.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, pair in enumerate(WIDTHS):
            if i:
                layers.append(nn.MaxPool2d(2))
            for width in pair:
                layers += [
                    nn.Conv2d(channels, width, 3),
                    nn.ReLU(inplace=True),
                    nn.BatchNorm2d(width, EPSILON),
                ]
                channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)  # of 32 pixels one place is left anyway
        self.classifier = nn.Sequential(
            nn.Linear(channels, 1024),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(1024, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(512, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


def build(name: re.Match[str], channels: int, classes: int) -> nn.Module:
    """The network called `keras-cifar10`."""
    return KerasCifar(channels, classes)
