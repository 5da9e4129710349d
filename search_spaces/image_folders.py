"""Folders of image files, one per class: torchvision's ImageFolder.

Either <root>/<class>/*.png, which serves every split, or <root>/train/<class>/*.png and
<root>/test/<class>/*.png (or val).
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from dfkd.methods.errors import ConfigError
from dfkd.methods.shape import ImageShape

Array = np.ndarray[Any, Any]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SPLITS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}
SPLIT_NAMES = {name for names in SPLITS.values() for name in names}
MODES = {1: "L", 3: "RGB"}  # PIL's names, by the number of channels
THREADS = min(8, os.cpu_count() or 1)  # PIL decodes outside of Python's lock
TOLD = 5  # how many broken files an error lists

File = tuple[str, int, int]
"""Path, size and time of change: a file that was replaced is read again."""


def read_image_folder(
    root: Path, split: str, classes: Sequence[str], shape: ImageShape
) -> tuple[Array, Array]:
    """Images uint8 [N, channels, H, W] and their classes [N], in the order of the file names.

    Each is scaled until it covers the shape, then cropped to its middle. Raises ConfigError with
    every problem of the folders found, or with the files that cannot be read.
    """
    if shape.channels not in MODES:
        raise ConfigError(
            f"{root}: files of images have 1 or 3 channels, the task has {shape.channels}; give an "
            ".npz file instead"
        )
    folder = split_folder(root, split, classes)
    of_class = match_classes(folder, classes)
    files: list[File] = []
    labels: list[int] = []
    for subfolder, label in of_class.items():
        found = _images_in(subfolder)
        if not found:
            raise ConfigError(f"{subfolder} holds no images ({', '.join(SUFFIXES)}); add some")
        files += found
        labels += [label] * len(found)
    return _decoded(tuple(files), shape), np.array(labels)


def split_folder(root: Path, split: str, classes: Sequence[str]) -> Path:
    """Where the classes' folders of a split lie: in `root` itself where it is not divided."""
    names = [folder.name for folder in _subfolders(root)]
    divided = {name.casefold(): name for name in names if name.casefold() in SPLIT_NAMES}
    keys = {_key(name) for name in classes}
    if not divided or all(_key(name) in keys for name in names):  # a class may be called `train`
        return root
    for name in SPLITS[split]:
        if name in divided:
            return root / divided[name]
    raise ConfigError(
        f"{root} holds {', '.join(sorted(divided.values()))} but no folder "
        f"{' or '.join(SPLITS[split][:2])}; add one with a folder of images for each class"
    )


def match_classes(folder: Path, classes: Sequence[str]) -> dict[Path, int]:
    """Each subfolder's class; case, `_`, `-`, `/` and spaces do not matter unless they must.

    Raises ConfigError with every class that is missing and every folder that is none.
    """
    subfolders = _subfolders(folder)
    if not subfolders:
        raise ConfigError(
            f"{folder} holds neither a folder of images for each class ({classes[0]}/, "
            f"{classes[1]}/, ...) nor IDX files; give another"
        )
    exact = {name: index for index, name in enumerate(classes)}
    found: dict[Path, int] = {}
    problems = []
    for subfolder in subfolders:
        alike = [index for index, name in enumerate(classes) if _key(name) == _key(subfolder.name)]
        index = exact.get(subfolder.name, alike[0] if len(alike) == 1 else None)
        if index is None:
            near = difflib.get_close_matches(subfolder.name, classes, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "rename it, or the task's classes"
            problems.append(f"{folder}: no class '{subfolder.name}' in the task; {hint}")
        elif index in found.values():
            problems.append(f"{folder}: two folders are called as class '{classes[index]}'")
        else:
            found[subfolder] = index
    missing = [name for index, name in enumerate(classes) if index not in found.values()]
    if missing:
        listed = ", ".join(f"'{name}'" for name in missing[:TOLD])
        more = f" and {len(missing) - TOLD} more" if len(missing) > TOLD else ""
        problems.append(f"{folder}: no folder for class {listed}{more}; add one for each class")
    if problems:
        raise ConfigError(*problems)
    return found


def _key(name: str) -> str:
    """What names are compared by; a class called T-shirt/top cannot be a folder's name.

    >>> _key("T-shirt/top") == _key("t_shirt top")
    True
    """
    return " ".join(re.split(r"[\s_/-]+", name.casefold()))


def _subfolders(folder: Path) -> list[Path]:
    """Without those that archives and file managers leave, such as __MACOSX and .cache."""
    inside = sorted(folder.iterdir())
    return [path for path in inside if path.is_dir() and not path.name.startswith((".", "__"))]


def _images_in(folder: Path) -> list[File]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            facts = path.stat()
            found.append((str(path), facts.st_size, facts.st_mtime_ns))
    return found


@functools.lru_cache(maxsize=2)  # a sweep asks for both splits, and for each more than once
def _decoded(files: tuple[File, ...], shape: ImageShape) -> Array:
    images = np.empty((len(files), shape.channels, shape.height, shape.width), np.uint8)

    def decode(row: int) -> str | None:
        path = files[row][0]
        try:
            images[row] = _read(path, shape)
        except Exception as error:  # of damaged files PIL's decoders raise a dozen kinds
            return f"{path} is no image that can be read ({type(error).__name__}); replace it"
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        broken = [problem for problem in pool.map(decode, range(len(files))) if problem]
    if broken:
        more = len(broken) - TOLD
        raise ConfigError(*broken[:TOLD], *([f"{more} more cannot be read"] if more > 0 else []))
    return images


def _read(path: str, shape: ImageShape) -> Array:
    """One image [channels, H, W]."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        plain = upright.convert(MODES[shape.channels])
        fitted = ImageOps.fit(plain, (shape.width, shape.height), Image.Resampling.BILINEAR)
        return np.asarray(fitted).reshape(shape.height, shape.width, -1).transpose(2, 0, 1)
