"""Labeled images in one .npz file."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from dfkd.methods.errors import ConfigError

Array = np.ndarray[Any, Any]
DIVIDED = ("train_images", "train_labels", "test_images", "test_labels")
WANTED = f"an .npz with images and labels, or with {', '.join(DIVIDED)}"


def read_npz(path: str, split: str) -> tuple[Array, Array]:
    """The images and labels of a split as the file has them, unchecked.

    Arrays `images` and `labels` serve every split. A file that has arrays of one split, such as
    `test_images`, is never asked for others: these could be what it was tested on.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"data {path} does not exist; give a folder of images or {WANTED}")
    try:
        return _arrays(path, split)
    except Exception as error:  # of damaged files zipfile, zlib and numpy raise a dozen kinds
        reason = str(error) or type(error).__name__
        raise ConfigError(
            f"data file {path} is not an .npz with images and labels: {reason}"
        ) from None


def _arrays(path: str, split: str) -> tuple[Array, Array]:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, NpzFile):
        raise ValueError("it holds one array")
    with loaded as file:
        divided = any(name in file.files for name in DIVIDED)
        names = [f"{split}_{kind}" if divided else kind for kind in ("images", "labels")]
        missing = [name for name in names if name not in file.files]
        if missing:
            raise ValueError(f"it lacks {' and '.join(missing)}, it has {', '.join(file.files)}")
        images, labels = (file[name] for name in names)
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
        raise ValueError("they are no arrays")
    return images, labels
