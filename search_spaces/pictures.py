"""From an opened image of any kind and size to an array of a task's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.fit import Fit

Array = np.ndarray[Any, Any]
MODES = {1: "L", 3: "RGB"}  # PIL's names, by the number of channels
LARGE = 1 << 20  # pixels: more are not kept as they are, not even for a moment


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image."""

    pixels: Array
    """uint8 [h, w, channels]."""
    fitted: bool
    """Whether it has the task's shape already."""


def as_picture(image: Image.Image, shape: ImageShape, fit: Fit) -> Picture:
    """Of its own size, unless that is large."""
    plain = converted(image, shape)
    large = plain.width * plain.height > LARGE
    pixels = np.asarray(fitted(plain, shape, fit) if large else plain)
    return Picture(pixels.reshape(*pixels.shape[:2], shape.channels), large)


def as_array(image: Image.Image, shape: ImageShape, fit: Fit) -> Array:
    """uint8 [channels, H, W]."""
    plain = fitted(converted(image, shape), shape, fit)
    return np.asarray(plain).reshape(shape.height, shape.width, -1).transpose(2, 0, 1)


def converted(image: Image.Image, shape: ImageShape) -> Image.Image:
    """Upright, of 8 bits, gray or in color as the shape has it."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return upright.convert(MODES[shape.channels])


def fitted(image: Image.Image, shape: ImageShape, fit: Fit) -> Image.Image:
    """The image in the shape's size; with `resize`, to the pixel as torchvision does it."""
    how = Image.Resampling[fit.interpolation.upper()]
    if fit.resize is None:
        return ImageOps.fit(image, (shape.width, shape.height), how)
    width, height = image.size
    short = min(width, height)
    size = (int(fit.resize * width / short), int(fit.resize * height / short))
    if size != image.size:
        image = image.resize(size, how)
    left, top = round((size[0] - shape.width) / 2), round((size[1] - shape.height) / 2)
    return image.crop((left, top, left + shape.width, top + shape.height))
