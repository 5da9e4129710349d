"""The names of networks: which family a name belongs to, and who builds it."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from torch import nn

from dfkd.methods.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Family:
    """Networks whose names are formed alike.

    `pattern` is what the whole name must match; `builder` is module:function beside this file,
    which takes the match, the number of channels and that of classes. It is imported when a name
    asks for it, since some need torchvision or timm.
    """

    grammar: str
    pattern: str
    builder: str
    examples: tuple[str, ...]


FAMILIES = (
    Family(
        "convnet-W1-W2-...[-nobn]",
        r"convnet(?P<widths>(?:-[1-9]\d*)+)(?P<nobn>-nobn)?",
        "convnet:build",
        ("convnet-24-48-64",),
    ),
    Family(
        "resnet-D[-b]",
        r"resnet-(?P<depth>\d{1,4})(?P<option>-b)?",
        "cifar_resnet:build",
        ("resnet-20", "resnet-20-b", "resnet-8", "resnet-32", "resnet-56", "resnet-110"),
    ),
    Family(
        "resnet18|34|50[-maxpool]",
        r"resnet(?P<depth>18|34|50)(?P<maxpool>-maxpool)?",
        "small_stem:build_resnet",
        ("resnet18", "resnet34", "resnet50"),
    ),
    Family(
        "vgg11|13|16|19[-HIDDEN][-poolN]",
        r"vgg(?P<depth>11|13|16|19)(?:-(?P<hidden>[1-9]\d*))?(?:-pool(?P<pools>\d))?",
        "small_stem:build_vgg",
        ("vgg11", "vgg13", "vgg16", "vgg19"),
    ),
    Family(
        "wrn-D-K",
        r"wrn-(?P<depth>\d{1,4})-(?P<widening>[1-9]\d?)",
        "wide_resnet:build",
        ("wrn-40-2", "wrn-40-1", "wrn-16-2", "wrn-16-1"),
    ),
    Family("keras-cifar10", "keras-cifar10", "keras_cifar:build", ("keras-cifar10",)),
    Family(
        "torchvision/NAME",
        r"torchvision/(?P<name>\w+)",
        "libraries:build_torchvision",
        ("torchvision/mobilenet_v2", "torchvision/resnet34"),
    ),
    Family(
        "timm/NAME",
        r"timm/(?P<name>[\w.]+)",
        "libraries:build_timm",
        ("timm/tf_efficientnet_lite0",),
    ),
)

GRAMMAR = ", ".join(f"{family.grammar} ({family.examples[0]})" for family in FAMILIES)


def build_network(name: str, channels: int, classes: int) -> nn.Module:
    """The network called `name`, with fresh weights from torch's global generator.

    Raises ConfigError for a name outside the grammar, with the nearest known ones.
    """
    for family in FAMILIES:
        if match := re.fullmatch(family.pattern, name):
            module, _, function = family.builder.partition(":")
            build = getattr(importlib.import_module(f"dfkd.methods.networks.{module}"), function)
            return cast(nn.Module, build(match, channels, classes))
    examples = [example for family in FAMILIES for example in family.examples]
    raise ConfigError(f"no network '{name}'.{nearest(name, examples)} Known: {GRAMMAR}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A question with up to three known names like this one, or nothing.

    >>> nearest("resnet-21", ["resnet-20", "wrn-16-1"])
    " Did you mean 'resnet-20'?"
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
