"""Images as files hold them, not decoded yet, and how they are decoded: many at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image

from dfkd.methods.errors import ConfigError
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.fit import Fit
from dfkd.search_spaces.pictures import MODES, as_array

Array = np.ndarray[Any, Any]
THREADS = min(8, os.cpu_count() or 1)  # PIL decodes outside of Python's lock
TOLD = 5  # how many broken files an error lists


class Encoded(Protocol):
    """Where the images of a split lie."""

    @property
    def labels(self) -> Array:
        """Their classes [N]."""
        ...

    def open(self, rows: Sequence[int]) -> Sequence[str | IO[bytes]]:
        """What PIL opens for some of them: paths or files."""
        ...

    def called(self, row: int) -> str:
        """One of them, for an error."""
        ...


def decoded(source: Encoded, rows: Sequence[int], shape: ImageShape, fit: Fit) -> Array:
    """Images uint8 [len(rows), channels, H, W]; raises ConfigError for what cannot be read."""
    if shape.channels not in MODES:
        raise ConfigError(
            f"files of images have 1 or 3 channels, the task has {shape.channels}; give an .npz "
            "file instead"
        )
    images = np.empty((len(rows), shape.channels, shape.height, shape.width), np.uint8)
    files = source.open(rows)

    def decode(place: int) -> str | None:
        try:
            with Image.open(files[place]) as image:
                images[place] = as_array(image, shape, fit)
        except Exception as error:  # of damaged files PIL's decoders raise a dozen kinds
            name = source.called(rows[place])
            return f"{name} is no image that can be read ({type(error).__name__}); replace it"
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        broken = [problem for problem in pool.map(decode, range(len(rows))) if problem]
    if broken:
        more = len(broken) - TOLD
        raise ConfigError(*broken[:TOLD], *([f"{more} more cannot be read"] if more > 0 else []))
    return images
