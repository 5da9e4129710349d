"""The size of images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageShape:
    """Size of the images that teacher and student see, in pixels; values are in [0, 1]."""

    channels: int
    height: int
    width: int
