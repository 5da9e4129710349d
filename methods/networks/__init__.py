"""Classifiers by name: what a teacher or a student can be.

A name carries the whole architecture, so that a weights file and a name are enough to rebuild a
network; docs/networks.md lists them. A family of names is a line in `names` and a file with a
function `build`.
"""

from dfkd.methods.networks.convnet import ConvNet
from dfkd.methods.networks.names import GRAMMAR, build_network
from dfkd.methods.networks.normalized import Normalized, parameters, require_logits

__all__ = [
    "GRAMMAR",
    "ConvNet",
    "Normalized",
    "build_network",
    "parameters",
    "require_logits",
]
