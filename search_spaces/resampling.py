"""Pictures scaled and cropped together on a device, as `pictures` does it one by one.

Resampling is linear in each direction: two products with matrices of weights, which hold the crop
too. Weights, edges and the rounding in between are PIL's, so that levels differ from its by one at
most, where it rounds its weights to whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.encoded import slices
from dfkd.search_spaces.fit import Fit
from dfkd.search_spaces.pictures import Picture


@dataclass(frozen=True, slots=True)
class Axis:
    """Where `count` new pixels lie among the old ones: `step` apart, the first from `start` on."""

    start: float
    step: float
    count: int


def fitted_together(
    pictures: Sequence[Picture], shape: ImageShape, fit: Fit, device: torch.device
) -> Tensor:
    """Images uint8 [N, channels, H, W] on `device`, in their order; those of one size at a time."""
    sizes = (len(pictures), shape.channels, shape.height, shape.width)
    images = torch.empty(sizes, dtype=torch.uint8, device=device)
    alike: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    for place, picture in enumerate(pictures):
        alike.setdefault((picture.pixels.shape, picture.fitted), []).append(place)
    for (size, is_fitted), places in alike.items():
        for part in slices(len(places), size):
            pixels = np.stack([pictures[place].pixels for place in places[part]])
            found = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
            where = torch.tensor(places[part], device=device)
            images[where] = found if is_fitted else fitted(found, shape, fit)
    return images


def fitted(images: Tensor, shape: ImageShape, fit: Fit) -> Tensor:
    """Images uint8 [B, channels, h, w] to [B, channels, H, W]."""
    rows, columns = axes(images.shape[2], images.shape[3], shape, fit)
    across = weights(columns, images.shape[3], fit.interpolation).to(images.device)
    down = weights(rows, images.shape[2], fit.interpolation).to(images.device)
    return levels(down @ levels(images.float() @ across.T)).to(torch.uint8)


def levels(values: Tensor) -> Tensor:
    """The nearest of 0..255."""
    return values.add(0.5).floor().clamp(0, 255)


def axes(height: int, width: int, shape: ImageShape, fit: Fit) -> tuple[Axis, Axis]:
    """Rows and columns of the shape in an image of this size."""
    if fit.resize is None:
        wide, high = (
            min(width, height * shape.width / shape.height),
            min(height, width * shape.height / shape.width),
        )
        return (
            Axis((height - high) / 2, high / shape.height, shape.height),
            Axis((width - wide) / 2, wide / shape.width, shape.width),
        )
    short = min(height, width)
    return (
        _cropped(height, int(fit.resize * height / short), shape.height),
        _cropped(width, int(fit.resize * width / short), shape.width),
    )


def _cropped(length: int, scaled: int, count: int) -> Axis:
    step = length / scaled
    return Axis(round((scaled - count) / 2) * step, step, count)


def weights(axis: Axis, length: int, interpolation: str) -> Tensor:
    """How much each of `length` old pixels counts in each new one, [count, length]; rows sum to 1.

    Where images shrink the kernel widens, which is what antialiasing is.
    """
    middles = axis.start + (torch.arange(axis.count, dtype=torch.float64) + 0.5) * axis.step
    old = torch.arange(length, dtype=torch.float64) + 0.5
    apart = (old - middles[:, None]).abs() / max(axis.step, 1.0)
    if interpolation == "bilinear":
        kernel = (1 - apart).clamp(min=0)
    else:  # Keys 1981, with PIL's a = -0.5
        near = (1.5 * apart - 2.5) * apart.square() + 1
        far = ((-0.5 * apart + 2.5) * apart - 4) * apart + 2
        kernel = torch.where(apart < 1, near, torch.where(apart < 2, far, 0.0))
    return (kernel / kernel.sum(1, keepdim=True)).float()
