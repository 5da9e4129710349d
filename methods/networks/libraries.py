"""Any network of torchvision or timm: `torchvision/mobilenet_v2`, `timm/tf_efficientnet_lite0`."""

from __future__ import annotations

import re
import warnings
from typing import Any

from torch import nn

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks.names import nearest


def build_torchvision(name: re.Match[str], channels: int, classes: int) -> nn.Module:
    """A classifier of torchvision without the heads that only training uses.

    For other than three channels its first convolution is a new one.
    """
    from torchvision import models

    own = name["name"]
    known = models.list_models(module=models)
    if own not in known:
        raise ConfigError(
            f"torchvision has no network '{own}'.{nearest(own, known)} "
            "torchvision.models.list_models() names them all"
        )
    options: dict[str, Any] = {}
    if own in ("googlenet", "inception_v3"):  # their weights expect images normalized twice
        options = {"aux_logits": False, "transform_input": channels == 3, "init_weights": True}
    network: nn.Module = models.get_model(own, weights=None, num_classes=classes, **options)
    if channels != 3:
        _take_channels(network, channels)
    return network


def _take_channels(network: nn.Module, channels: int) -> None:
    """Give the network a first convolution for images of `channels` channels."""
    where, first = next(
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    )
    above, _, last = where.rpartition(".")
    new = type(first)(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    setattr(network.get_submodule(above), last, new)


def build_timm(name: re.Match[str], channels: int, classes: int) -> nn.Module:
    """A classifier of timm; raises ConfigError where timm cannot build it for such a task."""
    import timm

    own = name["name"]
    if not timm.is_model(own):
        near = nearest(own, timm.list_models())
        raise ConfigError(
            f"timm has no network '{own}'.{near} timm.list_models('*PART*') names them all"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timm.create_model(own, pretrained=False, num_classes=classes, in_chans=channels)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"timm cannot build {own} for {channels} channels and {classes} classes: {error}"
        ) from None
