"""The label sets whose embeddings ship with dfkd: their names, without loading torch."""

from __future__ import annotations

import functools
import json
from importlib.resources import files

SHIPPED = ("digits", "fashion_mnist", "cifar10", "cifar100", "imagenet")  # searched in this order


@functools.cache
def shipped_names(label_set: str) -> tuple[str, ...]:
    """The class names of a shipped label set, in the order of its labels.

    They stand in the header of its safetensors file: its length in 8 bytes, little endian, then
    JSON.
    """
    path = files("dfkd.methods") / "priors" / f"{label_set}.safetensors"
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return tuple(json.loads(header["__metadata__"]["classes"]))
