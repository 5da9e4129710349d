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

    `pattern` is what the whole name must match; `builder` is a module beside this one, whose
    `build` takes the match, the number of channels and that of classes. It is imported when a name
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
        "convnet",
        ("convnet-24-48-64",),
    ),
)

GRAMMAR = "; ".join(f"{family.grammar}, for example {family.examples[0]}" for family in FAMILIES)


def build_network(name: str, channels: int, classes: int) -> nn.Module:
    """The network called `name`, with fresh weights from torch's global generator.

    Raises ConfigError for a name outside the grammar, with the nearest known ones.
    """
    for family in FAMILIES:
        if match := re.fullmatch(family.pattern, name):
            module = importlib.import_module(f"dfkd.methods.networks.{family.builder}")
            return cast(nn.Module, module.build(match, channels, classes))
    examples = [example for family in FAMILIES for example in family.examples]
    raise ConfigError(f"no network '{name}'.{nearest(name, examples)} Known: {GRAMMAR}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A question with up to three known names like this one, or nothing.

    >>> nearest("resnet-21", ["resnet-20", "wrn-16-1"])
    " Did you mean 'resnet-20'?"
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
