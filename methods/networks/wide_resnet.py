"""Wide residual networks: `wrn-40-2` has 40 layers, twice as wide as a CIFAR ResNet's.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016, without dropout. BatchNorm and ReLU
come before each convolution. Layers are in the order of the public checkpoints of these networks.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from dfkd.methods.errors import ConfigError


class WideBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the width changes.

    That one reads what the first convolution reads, after BatchNorm and ReLU.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = None
        if inputs != width:
            self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        ready = self.relu(self.bn1(maps))
        residual: Tensor = self.conv2(self.relu(self.bn2(self.conv1(ready))))
        return residual + (maps if self.shortcut is None else self.shortcut(ready))


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `widening` channels.

    Images [B, channels, H, W] to logits [B, classes].
    """

    def __init__(self, depth: int, widening: int, channels: int, classes: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        narrow, middle, wide = (share * widening for share in (16, 32, 64))
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _stage(16, narrow, blocks, stride=1)
        self.block2 = _stage(narrow, middle, blocks, stride=2)
        self.block3 = _stage(middle, wide, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(wide, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.block3(self.block2(self.block1(self.conv1(images))))
        logits: Tensor = self.fc(self.avgpool(self.relu(self.bn1(maps))).flatten(1))
        return logits


def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = WideBlock(inputs, width, stride)
    return nn.Sequential(first, *(WideBlock(width, width, 1) for _ in range(blocks - 1)))


def build(name: re.Match[str], channels: int, classes: int) -> nn.Module:
    """The network of a `wrn-` name; raises ConfigError for a depth that is not 6n + 4."""
    depth = int(name["depth"])
    if depth < 10 or depth % 6 != 4:
        raise ConfigError(
            f"no network '{name[0]}': the depth of a wide ResNet is 6n + 4, such as 10, 16 or 40"
        )
    return WideResNet(depth, int(name["widening"]), channels, classes)
