"""Labeled images in Parquet or Arrow files, as Hugging Face's hub and its `datasets` lay them out.

A column `image` (or `img`) holds structs whose `bytes` are an image file; a column `label` (or
`labels`, `fine_label`) holds whole numbers. Where the schema names the classes and the task has
the same names, these say which number is which class.
"""

from __future__ import annotations

import bisect
import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.classes import Classes, renumbering
from dfkd.search_spaces.image_folders import SPLITS

Array = np.ndarray[Any, Any]
SUFFIXES = (".parquet", ".arrow")
IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")
WANTED = "a column image (structs with bytes) and a column label (whole numbers)"


@dataclass(frozen=True, slots=True)
class Group:
    """A part of a file that is read at once."""

    path: Path
    number: int
    rows: int


@dataclass(slots=True)
class TableImages:
    """The images of a split, in the order of the files' names; the last group read is kept."""

    groups: Sequence[Group]
    labels: Array
    _starts: list[int] = field(init=False)
    _last: tuple[int, Any] = field(init=False, default=(-1, None))

    def __post_init__(self) -> None:
        self._starts = [0, *itertools.accumulate(group.rows for group in self.groups)]

    def open(self, rows: Sequence[int]) -> list[str | IO[bytes]]:
        return [io.BytesIO(self._bytes(row)) for row in rows]

    def called(self, row: int) -> str:
        place = bisect.bisect_right(self._starts, row) - 1
        return f"{self.groups[place].path}, image {row - self._starts[place]} of part {place},"

    def _bytes(self, row: int) -> bytes:
        place = bisect.bisect_right(self._starts, row) - 1
        if self._last[0] != place:
            group = self.groups[place]
            self._last = place, _column(_read(group.path, group.number), IMAGES, group.path)
        held = self._last[1][row - self._starts[place]].as_py()
        data = held.get("bytes") if isinstance(held, dict) else held
        return data if isinstance(data, bytes) else b""  # which is no image, and is told as such


def find_tables(root: Path, split: str) -> list[list[Path]]:
    """The files that may hold a split, best first; empty where there are no such files at all.

    A file belongs to the split that its name, or else its folder's, begins with, as in
    data/validation-00000-of-00014.parquet. Files of which none does serve every split.
    """
    if root.is_file():
        return [[root]]
    files = sorted(
        path
        for path in root.rglob("*")
        if path.suffix in SUFFIXES and not path.name.startswith((".", "cache-"))
    )
    of_split: dict[str, list[Path]] = {}
    for path in files:
        of_split.setdefault(_split(path, root), []).append(path)
    if set(of_split) <= {""}:
        return list(of_split.values())
    found = [of_split[name] for name in SPLITS[split] if name in of_split]
    if not found:
        names = ", ".join(sorted(filter(None, of_split)))
        raise ConfigError(f"{root} holds tables of {names}, none of {' or '.join(SPLITS[split])}")
    return found


def _split(path: Path, root: Path) -> str:
    known = {name for names in SPLITS.values() for name in names}
    words = (
        re.split(r"[-_.]", part)[0] for part in (path.name, *path.relative_to(root).parts[:-1])
    )
    return next((word for word in words if word in known), "")


def read_tables(choices: Sequence[Sequence[Path]], classes: Classes) -> TableImages:
    """The first of `choices` whose images have labels: some sets have none for their tests."""
    for files in choices:
        groups, labels = [], []
        for path in files:
            relabel = _relabel(path, classes)
            for number in range(_count(path)):
                column = _column(_read(path, number), LABELS, path)
                if not pa.types.is_integer(column.type) or column.null_count:
                    raise ConfigError(f"{path} has labels of {column.type}; expected {WANTED}")
                labels.append(relabel(column.to_numpy().astype(np.int64)))
                groups.append(Group(path, number, len(column)))
        found = TableImages(groups, np.concatenate([np.empty(0, np.int64), *labels]))
        if not len(found.labels) or found.labels.max() >= 0:
            return found
    raise ConfigError(f"{choices[0][0]} has no labels, only -1; give a split that has")


def _relabel(path: Path, classes: Classes) -> Callable[[Array], Array]:
    """From the file's labels to the task's: by name if the file names just the task's classes."""
    metadata = _schema(path).metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = next(features[key]["names"] for key in LABELS if key in features)
    except (KeyError, TypeError, ValueError, StopIteration):
        return lambda labels: labels
    wanted = renumbering(list(map(str, names)), classes)
    if wanted is None:
        return lambda labels: labels
    table = np.array(wanted, np.int64)

    def relabel(labels: Array) -> Array:
        named = (labels >= 0) & (labels < len(table))  # what is not stays, to be refused
        return np.where(named, table[np.where(named, labels, 0)], labels)

    return relabel


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{path} cannot be read: {reason}; fetch it again") from None


def _arrow(path: Path) -> Any:
    """An opened Arrow file: `datasets` writes streams, others files with a footer."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()


def _schema(path: Path) -> Any:
    if path.suffix == ".parquet":
        return _guarded(path, lambda: pq.read_schema(path))
    return _guarded(path, lambda: _arrow(path).schema)


def _count(path: Path) -> int:
    """How many parts a file is read in."""
    if path.suffix == ".parquet":
        return int(_guarded(path, lambda: pq.ParquetFile(path).num_row_groups))
    opened = _guarded(path, lambda: _arrow(path))
    return 1 if isinstance(opened, pa.Table) else int(opened.num_record_batches)


def _read(path: Path, number: int) -> Callable[[Sequence[str]], Any]:
    """A reader of some columns of one part."""

    def parquet(columns: Sequence[str]) -> Any:
        return pq.ParquetFile(path).read_row_group(number, columns=list(columns))

    def arrow(columns: Sequence[str]) -> Any:
        opened = _arrow(path)
        part = opened if isinstance(opened, pa.Table) else opened.get_batch(number)
        return part.select(list(columns))

    read = parquet if path.suffix == ".parquet" else arrow
    return lambda columns: _guarded(path, lambda: read(columns))


def _column(read: Callable[[Sequence[str]], Any], known: Sequence[str], path: Path) -> Any:
    present = _schema(path).names
    name = next((name for name in known if name in present), None)
    if name is None:
        raise ConfigError(f"{path} has columns {', '.join(present)}; expected {WANTED}")
    return read([name]).column(0)
