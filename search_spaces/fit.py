"""How files of images are to become a task's shape, as the task declares it."""

from __future__ import annotations

from dataclasses import dataclass

INTERPOLATIONS = ("bilinear", "bicubic")  # both antialiased


@dataclass(frozen=True, slots=True)
class Fit:
    """Images are scaled until their shorter side is `resize`, then cropped to their middle.

    None: they are scaled until they just cover the shape.
    """

    resize: int | None = None
    interpolation: str = "bilinear"
