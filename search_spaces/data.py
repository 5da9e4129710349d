"""Labeled images: to train a demonstration teacher, and to report accuracy. Never to distill."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.task import Task

Split = Literal["train", "test"]
DIGITS_TEST = 400  # of 1,797; drawn once with this seed, the same everywhere and for ever
DIGITS_SEED = 0


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
    if source == "digits":
        return load_digits(split)
    return load_npz(source, task)


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
    if not Path(path).is_file():
        raise ConfigError(f"data file {path} does not exist; give an .npz with images and labels")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (KeyError, OSError, ValueError) as error:
        raise ConfigError(
            f"data file {path} is not an .npz with images and labels: {error}"
        ) from None
    problems = []
    shape = task.shape
    if images.dtype != np.uint8:
        problems.append(f"{path}: images must be uint8, got {images.dtype}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[-1] == shape.channels != images.shape[1]:
        images = images.transpose(0, 3, 1, 2)
    wanted = (shape.channels, shape.height, shape.width)
    if images.shape[1:] != wanted:
        problems.append(f"{path}: task {task.name} has images of {wanted}, got {images.shape[1:]}")
    if labels.shape != images.shape[:1]:
        problems.append(f"{path}: {len(images)} images but labels of shape {labels.shape}")
    elif labels.min(initial=0) < 0 or labels.max(initial=0) >= len(task.classes):
        problems.append(
            f"{path}: labels must be 0 to {len(task.classes) - 1}, got "
            f"{labels.min()} to {labels.max()}"
        )
    if problems:
        raise ConfigError(*problems)
    return LabeledImages(
        torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))
    )
