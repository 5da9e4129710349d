"""`dfkd embed`: make a task's label-text embeddings, and look at their geometry."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from rich.console import RenderableType
from rich.table import Table
from torch import Tensor

from dfkd.methods.embeddings import LabelEmbeddings
from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.storage import Folder
from dfkd.search_spaces.label_text import label_embeddings
from dfkd.search_spaces.task import load_task

NEIGHBORS = 3
CELL = (4, 16)  # pixels of a class's row: the least, and where names are written
NAMED = 60  # classes: of more the picture has no names
MOST = 4000  # pixels of its side
TEXT, WIDEST, GAP = 11, 200, 4
COLD, PAPER, WARM = (40, 70, 160), (247, 247, 247), (165, 30, 40)  # of cosines -1, 0 and 1
SHOWN = 20  # classes: of more only the closest pairs are told


@dataclass(frozen=True, slots=True)
class Neighbor:
    """Another class, and the cosine between its vector and one's own."""

    name: str
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How the vectors of a task's classes lie to each other."""

    task: str
    source: str
    classes: int
    width: int
    mean_cosine: float
    """Over pairs of classes. Near 1: nearly collinear, as CLIP's are before they are centered."""
    centered_cosine: float
    """The largest between two classes once their mean is taken away, as NAYER's BatchNorm does."""
    dimensions: float
    """How many directions they effectively use, centered: exp of the entropy of the spectrum."""
    alike: tuple[tuple[str, str], ...]
    """Pairs of classes with one and the same vector: nothing tells them apart."""
    neighbors: dict[str, list[Neighbor]]
    """Of each class, the closest others by the centered cosine; of two classes that are called
    alike the last stands."""
    files: tuple[str, ...]
    """What was written."""


def embed(
    task: str, source: str | None = None, to: str | None = None, picture: str | None = None
) -> Geometry:
    """The geometry of the embeddings of `task`, from `source` instead of the task's own if given.

    They are written to the .safetensors file `to`, their cosines drawn into the .png file
    `picture`. Raises ConfigError for a source that there is not, or a file that cannot be written.
    """
    problem = load_task(task)
    for file, suffix, option in ((to, ".safetensors", "--to"), (picture, ".png", "--picture")):
        if file is not None and not file.lower().endswith(suffix):
            raise ConfigError(f"{option} must be a {suffix} file, got {file}")
    found = label_embeddings(source or problem.embeddings, problem.classes)
    written = []
    if to is not None:
        written.append(_write(to, as_file(found), "--to"))
    if picture is not None:
        buffer = io.BytesIO()
        draw(found).save(buffer, "PNG")
        written.append(_write(picture, buffer.getvalue(), "--picture"))
    return inspect(found, problem.name, tuple(written))


def as_file(found: LabelEmbeddings) -> bytes:
    """A safetensors file that a task's `embeddings` can name, on any machine."""
    facts = {"classes": json.dumps(found.classes), "source": found.source}
    return safetensors.torch.save({"embeddings": found.vectors.contiguous()}, facts)


def inspect(found: LabelEmbeddings, task: str = "", files: tuple[str, ...] = ()) -> Geometry:
    """How the vectors lie to each other."""
    vectors = found.vectors.double()
    raw, centered = cosines(vectors), cosines(vectors - vectors.mean(0))
    count = len(vectors)
    apart = ~torch.eye(count, dtype=torch.bool)
    alike = [(i, j) for i, j in (raw > 1 - 1e-9).nonzero().tolist() if i < j]
    closest = centered.masked_fill(~apart, -2.0).topk(min(NEIGHBORS, count - 1), dim=1)
    pairs = zip(closest.indices.tolist(), closest.values.tolist(), strict=True)
    return Geometry(
        task=task,
        source=found.source,
        classes=count,
        width=vectors.shape[1],
        mean_cosine=float(raw[apart].mean()),
        centered_cosine=float(centered[apart].max()),
        dimensions=effective_dimensions(vectors - vectors.mean(0)),
        alike=tuple((found.classes[i], found.classes[j]) for i, j in alike),
        neighbors={
            name: [Neighbor(found.classes[j], cosine) for j, cosine in zip(*pair, strict=True)]
            for name, pair in zip(found.classes, pairs, strict=True)
        },
        files=files,
    )


def cosines(vectors: Tensor) -> Tensor:
    """Between all rows of [C, D]: [C, C]; a row of zeros is at right angles to all."""
    unit = F.normalize(vectors, dim=1)
    return unit @ unit.T


def effective_dimensions(centered: Tensor) -> float:
    """exp of the entropy of the shares of variance: D for a ball, 1 for a line, 0 for a point."""
    spectrum = torch.linalg.svdvals(centered).square()
    if float(spectrum.sum()) <= 1e-18:
        return 0.0
    shares = spectrum / spectrum.sum()
    return math.exp(float(torch.special.entr(shares).sum()))


def draw(found: LabelEmbeddings) -> Image.Image:
    """The cosines between all classes, once centered: blue below 0, red above.

    Rows and columns are in the order of the classes, named where there is room.
    """
    vectors = found.vectors.double()
    matrix = cosines(vectors - vectors.mean(0)).clamp(-1, 1)
    count = len(matrix)
    named = count <= NAMED
    cell = max(1, min(CELL[named], MOST // count))
    colors = torch.tensor([COLD, PAPER, WARM], dtype=torch.float64)
    low, place = matrix.add(1).floor().long().clamp(max=1), matrix.add(1)
    share = (place - low).unsqueeze(-1)
    pixels = (1 - share) * colors[low] + share * colors[low + 1]  # [C, C, 3]
    grid = Image.fromarray(pixels.round().byte().numpy())
    grid = grid.resize((count * cell, count * cell), Image.Resampling.NEAREST)
    if not named:
        return grid
    font = ImageFont.load_default(TEXT)
    gutter = min(WIDEST, math.ceil(max(map(font.getlength, found.classes)))) + 2 * GAP
    sheet = Image.new("RGB", (gutter + grid.width, grid.height), "white")
    for row, name in enumerate(found.classes):
        ImageDraw.Draw(sheet).text((GAP, row * cell), name, "black", font)
    sheet.paste(grid, (gutter, 0))
    return sheet


def told(found: Geometry) -> Iterator[RenderableType]:
    """A geometry for people."""
    yield (
        f"{found.classes} vectors of {found.width} numbers ({found.source}); cosine of two classes "
        f"{found.mean_cosine:.3f} on average; centered, they use {found.dimensions:.1f} directions"
    )
    if len(found.neighbors) <= SHOWN:
        table = Table("class", "closest, by the cosine once centered")
        for name, closest in found.neighbors.items():
            table.add_row(name, ", ".join(f"{near.name} {near.cosine:.2f}" for near in closest))
    else:
        table = Table("the closest pairs", "", "cosine once centered")
        pairs = {
            tuple(sorted((name, near.name))): near.cosine
            for name, closest in found.neighbors.items()
            for near in closest
        }
        for pair in sorted(pairs, key=pairs.__getitem__, reverse=True)[:SHOWN]:
            table.add_row(*pair, f"{pairs[pair]:.2f}")
    yield table
    if found.alike:
        listed = "; ".join(f"{one} and {other}" for one, other in found.alike[:SHOWN])
        yield f"nothing tells these classes apart: {listed}"
    yield from (f"wrote {file}" for file in found.files)


def _write(path: str, data: bytes, option: str) -> str:
    """Write a file on any storage; returns where it is."""
    place = Folder.of(path)
    try:
        place.parent.write(place.name, data)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"{path} cannot be written: {reason}; choose another with {option}"
        ) from None
    return place.uri


def as_json(found: Geometry) -> dict[str, Any]:
    """A geometry as JSON values."""
    neighbors = {
        name: [{"class": near.name, "cosine": round(near.cosine, 6)} for near in closest]
        for name, closest in found.neighbors.items()
    }
    kept = ("task", "source", "classes", "width", "mean_cosine", "centered_cosine", "dimensions")
    facts = {key: getattr(found, key) for key in kept}
    alike = [list(pair) for pair in found.alike]
    return facts | {"alike": alike, "neighbors": neighbors, "files": list(found.files)}
