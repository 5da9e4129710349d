"""A pool at a glance: a picture with one row of images per class."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.pools import classes_of, distinct, draw, picture, survey_whole
from dfkd.orchestrator.storage import Folder

LEAST = 32  # pixels of an image's shorter side: smaller ones are enlarged by a whole factor
MOST = 64_000_000  # pixels of all images together: of a thousand classes each is drawn smaller
GAP = 2
TEXT = 14  # height of the names
WIDEST = 240  # of the names
PAPER, INK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where things lie on a sheet, in pixels."""

    rows: int
    columns: int
    width: int
    """Of an image, as is the next."""
    height: int
    gutter: int
    """Left of the images, for the names."""

    @property
    def pitch(self) -> int:
        """From a row to the next; at least as high as its name."""
        return max(self.height, TEXT) + GAP

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        return self.gutter + self.columns * (self.width + GAP), self.rows * self.pitch + GAP

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """The upper left corner of an image."""
        return self.gutter + column * (self.width + GAP), GAP + row * self.pitch


def contact_sheet(folder: Folder, per_class: int = 10) -> tuple[Image.Image, Grid]:
    """Draw some images of each class of a pool, the same ones every time.

    Raises ConfigError where a file cannot be read or images cannot be drawn.
    """
    if per_class < 1:
        raise ConfigError(f"per-class must be at least 1, got {per_class}")
    files = survey_whole(folder)
    names = distinct(classes_of(files))
    rows = draw(folder, files, per_class)
    grid = _grid(rows, names)
    sheet = Image.new("RGB", grid.size, PAPER)
    for row, (name, images) in enumerate(zip(names, rows, strict=True)):
        sheet.paste(_label(name, grid), (GAP, grid.corner(row, 0)[1]))
        for column, image in enumerate(images):
            scaled = picture(image).resize((grid.width, grid.height), Image.Resampling.NEAREST)
            sheet.paste(scaled, grid.corner(row, column))
    return sheet, grid


def save_contact_sheet(folder: Folder, to: str, per_class: int) -> str:
    """Write the sheet as a PNG file; returns where it is."""
    place = Folder.of(to)
    if not place.name.lower().endswith(".png"):
        raise ConfigError(f"--to must be a .png file, got {to}")
    sheet, _ = contact_sheet(folder, per_class)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    try:
        place.parent.write(place.name, buffer.getvalue())
    except OSError as error:
        told = error.strerror or error
        raise ConfigError(f"{to} cannot be written: {told}; choose another with --to") from None
    return place.uri


def _grid(rows: Sequence[Sequence[Tensor]], names: Sequence[str]) -> Grid:
    """Room for the largest of the images, enlarged or made smaller; others are scaled to it."""
    images = [image for row in rows for image in row]
    columns = max(map(len, rows))
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    factor = max(1, math.ceil(LEAST / min(height, width)))
    height, width = factor * height, factor * width
    much = len(rows) * columns * height * width / MOST
    if much > 1:
        height, width = (max(1, int(side / math.sqrt(much))) for side in (height, width))
    longest = max(ImageFont.load_default(TEXT).getlength(name) for name in names)
    gutter = min(math.ceil(longest), WIDEST) + 3 * GAP
    return Grid(len(rows), columns, width, height, gutter)


def _label(name: str, grid: Grid) -> Image.Image:
    """A class's name; one too long is cut off."""
    label = Image.new("RGB", (grid.gutter - 2 * GAP, grid.pitch - GAP), PAPER)
    ImageDraw.Draw(label).text((0, 0), name, INK, ImageFont.load_default(TEXT))
    return label
