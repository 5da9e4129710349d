"""From an opened image of any kind and size to an array of a task's shape."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.fit import Fit

Array = np.ndarray[Any, Any]
MODES = {1: "L", 3: "RGB"}  # PIL's names, by the number of channels


def as_array(image: Image.Image, shape: ImageShape, fit: Fit) -> Array:
    """uint8 [channels, H, W]."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if "transparency" in upright.info:
        upright = upright.convert("RGBA")
    plain = fitted(upright.convert(MODES[shape.channels]), shape, fit)
    return np.asarray(plain).reshape(shape.height, shape.width, -1).transpose(2, 0, 1)


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
