"""The ResNets of CIFAR: `resnet-20`, `resnet-56`, ... (He et al., CVPR 2016, section 4.2).

Three stages of 16, 32 and 64 channels with (D - 2) / 6 blocks each. Where a stage halves the size,
the shortcut is what the paper used there, option A: every second pixel, channels filled up with
zeros, no parameters. `resnet-20-b` has option B, a 1x1 convolution with BatchNorm, as have most
public checkpoints. Layers are called as in torchvision, whose blocks these are.
"""

from __future__ import annotations

import re

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from dfkd.methods.errors import ConfigError


class CifarResNet(nn.Module):
    """3x3 convolution, three stages of basic blocks, mean over places, linear head.

    Images [B, channels, H, W] to logits [B, classes].
    """

    def __init__(self, depth: int, channels: int, classes: int, *, projection: bool) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, blocks, projection)
        self.layer2 = _stage(16, 32, blocks, projection)
        self.layer3 = _stage(32, 64, blocks, projection)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.fc(self.avgpool(maps).flatten(1))
        return logits


class Padded(nn.Module):
    """Option A: every second pixel, between channels of zeros; half of them on either side."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, maps: Tensor) -> Tensor:
        front = self.extra // 2
        return F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, front, self.extra - front))


def _stage(inputs: int, width: int, blocks: int, projection: bool) -> nn.Sequential:
    """Blocks of one width; the first halves the size where the width grows."""
    stride, shortcut = 1, None
    if width != inputs:
        stride = 2
        shortcut = _projection(inputs, width) if projection else Padded(width - inputs)
    first = BasicBlock(inputs, width, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1)))


def _projection(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, width, 1, 2, bias=False), nn.BatchNorm2d(width))


def build(name: re.Match[str], channels: int, classes: int) -> nn.Module:
    """The network of a `resnet-` name; raises ConfigError for a depth that is not 6n + 2."""
    depth = int(name["depth"])
    if depth < 8 or depth % 6 != 2:
        raise ConfigError(
            f"no network '{name[0]}': the depth of a CIFAR ResNet is 6n + 2, such as 8, 20 or 56"
        )
    return CifarResNet(depth, channels, classes, projection=name["option"] is not None)
