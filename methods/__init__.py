"""Distillation methods in plain PyTorch: one short file per method, over shared parts.

To add one: write its file, name it here, give it a test class and a row in the docs. The table
holds import paths, so that listing methods does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from dfkd.methods.errors import ConfigError, unknown

if TYPE_CHECKING:
    from dfkd.methods.method import Method

METHODS = {
    "nayer": ("dfkd.methods.nayer:Nayer", "noisy layers over label-text embeddings (CVPR 2024)"),
    "noise": ("dfkd.methods.noise:Noise", "the control: uniform noise instead of synthesis"),
}
CONTROL = "noise"


def load_method(name: str) -> type[Method]:
    """The class of the method called `name`; raises ConfigError for an unknown one."""
    if name not in METHODS:
        raise ConfigError(unknown("method", name, METHODS))
    module, _, attribute = METHODS[name][0].partition(":")
    return cast("type[Method]", getattr(importlib.import_module(module), attribute))
