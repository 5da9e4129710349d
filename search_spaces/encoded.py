"""Images as files hold them, not decoded yet, and how they are decoded: many at a time."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dfkd.methods.errors import ConfigError, TrialFailed
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.fit import Fit
from dfkd.search_spaces.pictures import MODES, as_array

Array = np.ndarray[Any, Any]
THREADS = min(8, os.cpu_count() or 1)  # PIL decodes outside of Python's lock
TOLD = 5  # how many broken files an error lists
BATCH, VALUES = 1000, 1 << 24  # of images that are looked at together: 111 of 3x224x224
AHEAD = 1  # batches decoded beside the one in use


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


@dataclass(frozen=True, slots=True)
class StreamedImages:
    """Labeled images that are too many to be kept: decoded batch by batch, whenever asked for."""

    source: Encoded
    rows: range
    shape: ImageShape
    fit: Fit

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> Tensor:
        """Their classes [N]."""
        return torch.from_numpy(self.source.labels.astype(np.int64))[list(self.rows)]

    def part(self, which: slice) -> StreamedImages:
        """Some of them."""
        return StreamedImages(self.source, self.rows[which], self.shape, self.fit)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 [B, channels, H, W] and classes [B], all in order.

        The next batch is decoded while this one is used. Raises TrialFailed where a file cannot be
        read.
        """
        labels = self.labels
        sizes = (self.shape.channels, self.shape.height, self.shape.width)
        coming: deque[tuple[slice, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(1) as ahead:
            for part in slices(len(self), sizes):
                coming.append((part, ahead.submit(self._decode, part)))
                if len(coming) > AHEAD:
                    ready, images = coming.popleft()
                    yield images.result(), labels[ready]
            for ready, images in coming:
                yield images.result(), labels[ready]

    def _decode(self, part: slice) -> Tensor:
        try:
            return torch.from_numpy(decoded(self.source, self.rows[part], self.shape, self.fit))
        except ConfigError as error:  # in the middle of a trial, say
            raise TrialFailed(str(error)) from None


def slices(count: int, sizes: Sequence[int]) -> Iterator[slice]:
    """Batches of `count` images of these sizes, each of BATCH images or VALUES numbers at most.

    >>> list(slices(2500, (1, 28, 28)))
    [slice(0, 1000, None), slice(1000, 2000, None), slice(2000, 2500, None)]
    """
    size = max(1, min(BATCH, VALUES // math.prod(sizes)))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
