"""Images as files hold them, not decoded yet, and how they are decoded: many at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image

from dfkd.methods.errors import ConfigError
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.fit import Fit
from dfkd.search_spaces.pictures import MODES, Picture, as_array, as_picture

Array = np.ndarray[Any, Any]
THREADS = min(8, os.cpu_count() or 1)  # PIL decodes outside of Python's lock
TOLD = 5  # how many broken files an error lists
BATCH, VALUES = 1000, 1 << 24  # of images that are looked at together: 111 of 3x224x224


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
    images = np.empty((len(rows), shape.channels, shape.height, shape.width), np.uint8)

    def keep(place: int, image: Image.Image) -> None:
        images[place] = as_array(image, shape, fit)

    _open_all(source, rows, shape, keep)
    return images


def pictures(source: Encoded, rows: Sequence[int], shape: ImageShape, fit: Fit) -> list[Picture]:
    """The same, but of their own sizes; of large ones only what is wanted of them."""
    found: dict[int, Picture] = {}

    def keep(place: int, image: Image.Image) -> None:
        found[place] = as_picture(image, shape, fit)

    _open_all(source, rows, shape, keep)
    return [found[place] for place in range(len(rows))]


def _open_all(
    source: Encoded,
    rows: Sequence[int],
    shape: ImageShape,
    keep: Callable[[int, Image.Image], None],
) -> None:
    """Tell `keep` each image and its place among the rows, from several threads."""
    if shape.channels not in MODES:
        raise ConfigError(
            f"files of images have 1 or 3 channels, the task has {shape.channels}; give an .npz "
            "file instead"
        )
    files = source.open(rows)

    def decode(place: int) -> str | None:
        try:
            with Image.open(files[place]) as image:
                keep(place, image)
        except Exception as error:  # of damaged files PIL's decoders raise a dozen kinds
            name = source.called(rows[place])
            return f"{name} is no image that can be read ({type(error).__name__}); replace it"
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        broken = [problem for problem in pool.map(decode, range(len(rows))) if problem]
    if broken:
        more = len(broken) - TOLD
        raise ConfigError(*broken[:TOLD], *([f"{more} more cannot be read"] if more > 0 else []))


def slices(count: int, sizes: Sequence[int]) -> Iterator[slice]:
    """Batches of `count` images of these sizes, each of BATCH images or VALUES numbers at most.

    >>> list(slices(2500, (1, 28, 28)))
    [slice(0, 1000, None), slice(1000, 2000, None), slice(2000, 2500, None)]
    """
    size = max(1, min(BATCH, VALUES // math.prod(sizes)))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
