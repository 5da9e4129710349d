"""Labeled images: to train a demonstration teacher, and to report accuracy. Never to distill."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from dfkd.methods.errors import ConfigError
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.task import Task

Split = Literal["train", "test"]
Array = np.ndarray[Any, Any]
DIGITS_TEST = 400  # of 1,797; drawn once with this seed, the same everywhere and for ever
DIGITS_SEED = 0
DIGITS_SHAPE = ImageShape(1, 8, 8)


@dataclass(frozen=True, slots=True)
class LabeledImages:
    """Images uint8 [N, channels, H, W] and their classes [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load_data(task: Task, split: Split, path: str | None = None) -> LabeledImages | None:
    """The labeled images of a task, from `path` if given; None where the task has none.

    An .npz file holds `images` (uint8, [N, H, W], [N, H, W, channels] or [N, channels, H, W]) and
    `labels` ([N], whole numbers); it serves both splits. Raises ConfigError when it does not fit.
    """
    source = path or task.data
    if source is None:
        return None
    if source != "digits":
        return load_npz(source, task)
    if (task.shape, len(task.classes)) != (DIGITS_SHAPE, 10):
        raise ConfigError(
            f"data 'digits' are 10 classes of {_sizes(DIGITS_SHAPE)}, task {task.name} has "
            f"{len(task.classes)} of {_sizes(task.shape)}; give an .npz file of its own"
        )
    return load_digits(split)


def load_digits(split: Split) -> LabeledImages:
    """scikit-learn's digits: 1,397 training and 400 test images of [1, 8, 8].

    The split is drawn by numpy's PCG64 with a fixed seed. The file is read without importing
    scikit-learn, which would take every worker a second or two.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise ConfigError("the digits come with scikit-learn, which is missing: pip install dfkd")
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    order = np.random.default_rng(DIGITS_SEED).permutation(len(table))
    rows = table[order[:DIGITS_TEST] if split == "test" else order[DIGITS_TEST:]]
    levels = np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return LabeledImages(torch.from_numpy(levels), torch.from_numpy(rows[:, -1].astype(np.int64)))


def load_npz(path: str, task: Task) -> LabeledImages:
    """Read an .npz file and check it against the task."""
    if not os.path.isfile(path):
        raise ConfigError(f"data file {path} does not exist; give an .npz with images and labels")
    try:
        images, labels = _arrays(path)
    except Exception as error:  # of damaged files zipfile, zlib and numpy raise a dozen kinds
        raise ConfigError(
            f"data file {path} is not an .npz with images and labels: "
            f"{str(error) or type(error).__name__}"
        ) from None
    channels = task.shape.channels
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[-1] == channels != images.shape[1]:
        images = images.transpose(0, 3, 1, 2)
    problems = _misfits(images, labels, task)
    if problems:
        raise ConfigError(*(f"{path}: {problem}" for problem in problems))
    return LabeledImages(
        torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))
    )


def _arrays(path: str) -> tuple[Array, Array]:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, NpzFile):
        raise ValueError("it holds one array")
    with loaded as arrays:
        images, labels = arrays["images"], arrays["labels"]
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
        raise ValueError("they are no arrays")
    return images, labels


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
    elif not np.issubdtype(labels.dtype, np.integer):
        problems.append(f"labels must be whole numbers, got {labels.dtype}")
    elif count and not 0 <= labels.min() <= labels.max() < len(task.classes):
        problems.append(
            f"labels must be 0 to {len(task.classes) - 1}, got {labels.min()} to {labels.max()}"
        )
    return problems


def _sizes(shape: ImageShape) -> tuple[int, int, int]:
    return shape.channels, shape.height, shape.width
