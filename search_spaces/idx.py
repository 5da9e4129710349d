"""IDX files, the format of MNIST and what came after it, plain or gzipped.

Big-endian: two zero bytes, the type of a value, the number of dimensions, their sizes as 32-bit
numbers, the values. See http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dfkd.methods.errors import ConfigError

Array = np.ndarray[Any, Any]
UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"
PREFIXES = {"train": "train", "test": "t10k"}  # of the files' names; 10,000 were for testing
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
AGAIN = "fetch or unpack it again"


def read_idx(path: Path) -> Array:
    """The array uint8 that an IDX file holds; raises ConfigError where it is not whole."""
    data = _bytes(path)
    if len(data) < 4 or data[:2] != b"\x00\x00":
        raise ConfigError(f"{path} is no IDX file: it begins with {data[:4]!r}; {AGAIN}")
    kind, dimensions = data[2], data[3]
    if kind != UNSIGNED_BYTE:
        raise ConfigError(
            f"{path} holds IDX values of type 0x{kind:02x}; only unsigned bytes (0x08) are read"
        )
    header = 4 + 4 * dimensions
    if dimensions == 0 or len(data) < header:
        raise ConfigError(f"{path} ends within its IDX header of {dimensions} dimensions; {AGAIN}")
    sizes = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, offset=4))
    found, promised = len(data) - header, math.prod(sizes)
    if found != promised:
        why = "it is cut off" if found < promised else "something was added"
        raise ConfigError(
            f"{path} holds {found:,} bytes of values, its header {sizes} says {promised:,}: "
            f"{why}; {AGAIN}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(sizes)


def _bytes(path: Path) -> bytes:
    """What a file holds, unpacked: some copies are called .gz and are not, or the reverse."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read: {reason}; {AGAIN}") from None


def find_idx(root: Path, name: str) -> Path | None:
    """The folder of IDX files below `root`: itself, or torchvision's <root>/FashionMNIST/raw.

    Of several the one called as `name`, whose case, `_` and `-` do not matter, is taken. None
    where there is none.
    """
    folders = [root, root / "raw", *sorted(root.glob("*/raw"))]
    found = [folder for folder in folders if _holds_idx(folder)]
    if len(found) > 1:
        called = [folder for folder in found if _key(folder.parent.name) == _key(name)]
        if len(called) != 1:
            names = ", ".join(str(folder) for folder in found)
            raise ConfigError(f"{root} holds several sets of IDX files; name one of {names}")
        found = called
    return found[0] if found else None


def _key(name: str) -> str:
    """What names are compared by.

    >>> _key("FashionMNIST") == _key("fashion_mnist")
    True
    """
    return re.sub(r"[\W_]", "", name.casefold())


def _holds_idx(folder: Path) -> bool:
    return any(_file(folder, prefix, IMAGES) is not None for prefix in PREFIXES.values())


def _file(folder: Path, prefix: str, kind: str) -> Path | None:
    """Such as train-images-idx3-ubyte, which some copies call train-images.idx3-ubyte."""
    names = [f"{prefix}-{kind}", f"{prefix}-{kind.replace('-idx', '.idx')}"]
    paths = [folder / (name + packed) for name in names for packed in ("", ".gz")]
    return next((path for path in paths if path.is_file()), None)


def read_idx_folder(folder: Path, split: str) -> tuple[Array, Array]:
    """Images [N, H, W] and labels [N] of a split; raises ConfigError where a file is missing."""
    found, problems = [], []
    for kind, dimensions in ((IMAGES, 3), (LABELS, 1)):
        path = _file(folder, PREFIXES[split], kind)
        if path is None:
            name = f"{PREFIXES[split]}-{kind}"
            problems.append(f"{folder} lacks {name} or {name}.gz; copy it there")
            continue
        array = read_idx(path)
        if array.ndim != dimensions:
            problems.append(
                f"{path} has {array.ndim} dimensions, {array.shape}, where {dimensions} were "
                "expected; is it another file, renamed?"
            )
        found.append(array)
    if problems:
        raise ConfigError(*problems)
    images, labels = found
    return images, labels
