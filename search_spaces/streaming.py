"""Labeled images that are too many to be kept: decoded batch by batch, whenever asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfkd.methods.errors import ConfigError, TrialFailed
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.encoded import Encoded, decoded, pictures, slices
from dfkd.search_spaces.fit import Fit
from dfkd.search_spaces.resampling import fitted_together

AHEAD = 1  # batches decoded beside the one in use
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class StreamedImages:
    """Labeled images in files, of which a few batches are in memory at a time."""

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

    def batches(self, device: torch.device = CPU) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 [B, channels, H, W] and classes [B] on `device`, all in order.

        The next batch is decoded while this one is used. Raises TrialFailed where a file cannot be
        read.
        """
        labels = self.labels.to(device)
        sizes = (self.shape.channels, self.shape.height, self.shape.width)
        coming: deque[tuple[slice, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(1) as ahead:
            for part in slices(len(self), sizes):
                coming.append((part, ahead.submit(self._decode, part, device)))
                if len(coming) > AHEAD:
                    ready, images = coming.popleft()
                    yield images.result(), labels[ready]
            for ready, images in coming:
                yield images.result(), labels[ready]

    def _decode(self, part: slice, device: torch.device) -> Tensor:
        """On a CPU each image is fitted by the thread that decodes it; elsewhere many at once."""
        given = self.source, self.rows[part], self.shape, self.fit
        try:
            if device.type == "cpu":
                return torch.from_numpy(decoded(*given))
            return fitted_together(pictures(*given), self.shape, self.fit, device)
        except ConfigError as error:  # in the middle of a trial, say
            raise TrialFailed(str(error)) from None
