"""torchvision's ResNets and VGGs for small images: `resnet34`, `vgg11`.

These are the teachers and students of the papers on CIFAR. A ResNet begins with a 3x3 convolution
of stride 1 and no pooling, so that 32 pixels are not an eighth of that after two layers. A VGG ends
in a mean over places and one linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor, nn
from torchvision import models
from torchvision.models import vgg

from dfkd.methods.errors import ConfigError

VGG_LAYERS = {"11": "A", "13": "B", "16": "D", "19": "E"}  # Simonyan and Zisserman 2015, table 1
VGG_POOLS = 5


def build_resnet(name: re.Match[str], channels: int, classes: int) -> nn.Module:
    """torchvision's ResNet of a `resnet18` name with another stem.

    `-maxpool` keeps the pooling after the first convolution, as some public checkpoints were
    trained with it (docs/networks.md).
    """
    network: nn.Module = models.get_model(
        f"resnet{name['depth']}", weights=None, num_classes=classes
    )
    stem = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1 = stem
    if name["maxpool"] is None:
        network.maxpool = nn.Identity()
    return network


class SmallVgg(nn.Module):
    """torchvision's VGG layers with BatchNorm, mean over places, `hidden` layers, linear head.

    Images [B, channels, H, W] to logits [B, classes]. `pools` of the five poolings are kept, the
    first ones. They round sizes up, which changes nothing at 32 pixels and lets smaller images
    pass.
    """

    def __init__(
        self, depth: str, channels: int, classes: int, *, hidden: int = 0, pools: int = VGG_POOLS
    ) -> None:
        super().__init__()
        self.features = vgg.make_layers(vgg.cfgs[VGG_LAYERS[depth]], batch_norm=True)
        self.features[0] = nn.Conv2d(channels, 64, 3, padding=1)
        for i, kept in _poolings(self.features, pools):
            self.features[i] = nn.MaxPool2d(2, 2, ceil_mode=True) if kept else nn.Identity()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = _classifier(hidden, classes) if hidden else nn.Linear(512, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # VGGs have biases

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(images)).flatten(1))
        return logits


def _poolings(layers: nn.Sequential, pools: int) -> Iterator[tuple[int, bool]]:
    """Where the poolings are, and whether each belongs to the first `pools`."""
    places = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    return ((i, count < pools) for count, i in enumerate(places))


def _classifier(hidden: int, classes: int) -> nn.Sequential:
    """VGG's own head of three linear layers, over one place instead of 7x7."""
    return nn.Sequential(
        nn.Linear(512, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, classes),
    )


def build_vgg(name: re.Match[str], channels: int, classes: int) -> nn.Module:
    """The network of a `vgg11` name."""
    pools = int(name["pools"] or VGG_POOLS)
    if not 1 <= pools <= VGG_POOLS:
        raise ConfigError(f"no network '{name[0]}': a VGG has 1 to {VGG_POOLS} poolings")
    return SmallVgg(name["depth"], channels, classes, hidden=int(name["hidden"] or 0), pools=pools)
