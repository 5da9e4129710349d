"""Folders of image files, one per class: torchvision's ImageFolder.

Either <root>/<class>/*.png, which serves every split, or <root>/train/<class>/*.png and
<root>/test/<class>/*.png (or val). Also Tiny-ImageNet, whose val/ is not divided by class.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from dfkd.methods.errors import ConfigError
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.classes import Classes, label_of, plain
from dfkd.search_spaces.encoded import TOLD, decoded
from dfkd.search_spaces.fit import Fit

Array = np.ndarray[Any, Any]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SPLITS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}
SPLIT_NAMES = {name for names in SPLITS.values() for name in names}
LAYOUTS = (
    "a folder of images for each class ({}/, {}/, ...), in train/ and test/ or val/ if divided; "
    "CIFAR's batches (cifar-10-batches-py/, cifar-100-python/); Tiny-ImageNet's val/; Parquet or "
    "Arrow files (*.parquet, *.arrow); IDX files (t10k-images-idx3-ubyte)"
)
ANNOTATIONS = "val_annotations.txt"  # of Tiny-ImageNet

File = tuple[str, int, int]
"""Path, size and time of change: a file that was replaced is read again."""


@dataclass(frozen=True, slots=True)
class FileImages:
    """Files of images and their classes [N], in the order of the files' names."""

    files: tuple[File, ...]
    labels: Array

    def open(self, rows: Sequence[int]) -> list[str | IO[bytes]]:
        return [self.files[row][0] for row in rows]

    def called(self, row: int) -> str:
        return self.files[row][0]


def read_image_folder(
    root: Path, split: str, classes: Classes, shape: ImageShape, fit: Fit | None = None
) -> tuple[Array, Array]:
    """Images uint8 [N, channels, H, W] and their classes [N], in the order of the file names.

    Each is scaled and cropped to its middle as `fit` says. Raises ConfigError with every problem
    of the folders found, or with the files that cannot be read.
    """
    found = find_images(root, split, classes)
    return read_files(found, shape, fit or Fit()), found.labels


def read_files(found: FileImages, shape: ImageShape, fit: Fit) -> Array:
    """Images uint8 [N, channels, H, W], kept for whoever asks for the same files again."""
    return _decoded(found.files, shape, fit)


def find_images(root: Path, split: str, classes: Classes) -> FileImages:
    """The files of a split; raises ConfigError with every problem of the folders."""
    folder = split_folder(root, split, classes)
    if split == "test" and (folder / ANNOTATIONS).is_file():
        return _annotated(folder, classes)
    of_class = match_classes(folder, classes)
    files: list[File] = []
    labels: list[int] = []
    for subfolder, label in of_class.items():
        found = _images_in(subfolder)
        if not found:
            raise ConfigError(f"{subfolder} holds no images ({', '.join(SUFFIXES)}); add some")
        files += found
        labels += [label] * len(found)
    return FileImages(tuple(files), np.array(labels))


def _annotated(folder: Path, classes: Classes) -> FileImages:
    """Tiny-ImageNet's validation images: each line of a file has a name, a WordNet id, a box."""
    path = folder / ANNOTATIONS
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line]
    labels = [label_of(fields[1], classes) if len(fields) > 1 else None for fields in lines]
    files = [folder / "images" / fields[0] for fields in lines]
    problems = [
        f"{path}, line {number}: no class of the task in {fields[:2]}"
        for number, (fields, label) in enumerate(zip(lines, labels, strict=True), start=1)
        if label is None
    ]
    problems += [f"{file} is missing, which {path} lists" for file in files if not file.is_file()]
    if problems or not files:
        raise ConfigError(*(problems[:TOLD] or [f"{path} lists no images"]))
    return FileImages(tuple(map(_file, files)), np.array(labels))


def find_annotated(root: Path) -> Path | None:
    """Tiny-ImageNet's own folder at or below `root`; None where that is something else."""
    folders = (root, root / "tiny-imagenet-200")
    return next((folder for folder in folders if (folder / "val" / ANNOTATIONS).is_file()), None)


def split_folder(root: Path, split: str, classes: Classes) -> Path:
    """Where the classes' folders of a split lie: in `root` itself where it is not divided."""
    names = [folder.name for folder in _subfolders(root)]
    divided = {name.casefold(): name for name in names if name.casefold() in SPLIT_NAMES}
    keys = {plain(name) for name in (*classes.names, *classes.ids)}
    if not divided or all(plain(name) in keys for name in names):  # a class may be called `train`
        return root
    if split == "test" and (root / "val" / ANNOTATIONS).is_file():  # its test/ has no labels
        return root / "val"
    for name in SPLITS[split]:
        if name in divided:
            return root / divided[name]
    raise ConfigError(
        f"{root} holds {', '.join(sorted(divided.values()))} but no folder "
        f"{' or '.join(SPLITS[split][:2])}; add one with a folder of images for each class"
    )


def match_classes(folder: Path, classes: Classes) -> dict[Path, int]:
    """Each subfolder's class, by its name or its id.

    Case, `_`, `-`, `/` and spaces do not matter unless they must.

    Raises ConfigError with every class that is missing and every folder that is none.
    """
    names = classes.names
    subfolders = _subfolders(folder)
    if not subfolders:
        raise ConfigError(
            f"{folder} holds none of these: {LAYOUTS.format(*names[:2])}; give another"
        )
    found: dict[Path, int] = {}
    problems = []
    for subfolder in subfolders:
        index = label_of(subfolder.name, classes)
        if index is None:
            near = difflib.get_close_matches(subfolder.name, names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "rename it, or the task's classes"
            problems.append(f"{folder}: no class '{subfolder.name}' in the task; {hint}")
        elif index in found.values():
            problems.append(f"{folder}: two folders are called as class '{names[index]}'")
        else:
            found[subfolder] = index
    missing = [name for index, name in enumerate(names) if index not in found.values()]
    if missing:
        listed = ", ".join(f"'{name}'" for name in missing[:TOLD])
        more = f" and {len(missing) - TOLD} more" if len(missing) > TOLD else ""
        problems.append(f"{folder}: no folder for class {listed}{more}; add one for each class")
    if problems:
        raise ConfigError(*problems)
    return found


def _subfolders(folder: Path) -> list[Path]:
    """Without those that archives and file managers leave, such as __MACOSX and .cache."""
    inside = sorted(folder.iterdir())
    return [path for path in inside if path.is_dir() and not path.name.startswith((".", "__"))]


def _images_in(folder: Path) -> list[File]:
    paths = (path for path in sorted(folder.rglob("*")) if not path.name.startswith("."))
    return [_file(path) for path in paths if path.suffix.lower() in SUFFIXES]


def _file(path: Path) -> File:
    facts = path.stat()
    return str(path), facts.st_size, facts.st_mtime_ns


@functools.lru_cache(maxsize=2)  # a sweep asks for both splits, and for each more than once
def _decoded(files: tuple[File, ...], shape: ImageShape, fit: Fit) -> Array:
    rows = range(len(files))
    return decoded(FileImages(files, np.zeros(len(files), np.int64)), rows, shape, fit)
