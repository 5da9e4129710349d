"""CIFAR-10 and CIFAR-100 as torchvision unpacks them: pickles of Python 2, read without running.

A pickle can call anything that its reader lets it. This reader knows stand-ins for the few things
of numpy that these files ask for, so that bytes are copied and nothing is called.
See https://www.cs.toronto.edu/~kriz/cifar.html for the format.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.classes import Classes, renumbering

Array = np.ndarray[Any, Any]
SIZES = (3, 32, 32)
AGAIN = "fetch or unpack it again"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one of the two sets keeps what."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    meta: str
    names: str


LAYOUTS = {  # by the number of classes
    10: Layout(
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        labels="labels",
        meta="batches.meta",
        names="label_names",
    ),
    100: Layout(
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        labels="fine_labels",
        meta="meta",
        names="fine_label_names",
    ),
}


def find_cifar(root: Path, classes: int) -> tuple[Path, Layout] | None:
    """The folder of batches at or below `root`, and which of the two sets it is.

    Of both sets below one folder, that with as many `classes` is taken.
    """
    found = {}
    for count, layout in LAYOUTS.items():
        for folder in (root, root / layout.folder):
            has = [(folder / name).is_file() for name in (layout.test[0], layout.meta)]
            if has[0] and (has[1] or folder.name == layout.folder):
                found[count] = folder, layout
    return found.get(classes) or next(iter(found.values()), None)


def read_cifar(folder: Path, layout: Layout, split: str, classes: Classes) -> tuple[Array, Array]:
    """Images uint8 [N, 3, 32, 32] and labels [N]; raises ConfigError where a batch is not whole.

    Where the folder names just the task's classes, in another order, the labels are the task's.
    """
    batches = [_batch(folder / name, layout.labels) for name in getattr(layout, split)]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    meta = folder / layout.meta
    names = _tree(meta).get(layout.names) if meta.is_file() else None
    wanted = renumbering(list(map(_text, names)), classes) if isinstance(names, list) else None
    if wanted is not None and labels.size and 0 <= labels.min() <= labels.max() < len(wanted):
        labels = np.array(wanted, np.int64)[labels]
    return images, labels


def _batch(path: Path, key: str) -> tuple[Array, Array]:
    held = _tree(path)
    pixels, labels = held.get("data"), held.get(key)
    if not isinstance(pixels, _Pixels) or pixels.values is None or not isinstance(labels, list):
        raise ConfigError(f"{path} holds no data and {key}; {AGAIN}")
    if pixels.values.shape != (len(labels), math.prod(SIZES)):
        raise ConfigError(
            f"{path} has data of {pixels.values.shape} for {len(labels)} {key}, where rows of "
            f"{math.prod(SIZES)} bytes were expected; {AGAIN}"
        )
    if not all(type(label) is int for label in labels):
        raise ConfigError(f"{path} has {key} that are no whole numbers; {AGAIN}")
    return pixels.values.reshape(-1, *SIZES), np.array(labels, np.int64)


def _tree(path: Path) -> dict[str, Any]:
    """What a file holds by name."""
    try:
        with path.open("rb") as file:
            tree = _Unpickler(file, encoding="bytes").load()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {AGAIN}") from None
    except Refused as error:
        raise ConfigError(f"{path} is no file of CIFAR and was not run: {error}") from None
    except Exception as error:  # on what is no pickle, the unpickler raises anything
        kind = type(error).__name__
        raise ConfigError(f"{path} is no file of CIFAR ({kind}); {AGAIN}") from None
    return {_text(name): value for name, value in tree.items()} if isinstance(tree, dict) else {}


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


class Refused(Exception):
    """A pickle asks for more than a batch of CIFAR needs."""


class _Pixels:
    """Stands in for a numpy array; takes its bytes."""

    values: Array | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns_first, raw = state
        if not isinstance(kind, _Kind) or kind.name not in ("u1", "uint8") or columns_first:
            raise Refused("its array is not of unsigned bytes, row by row")
        self.values = np.frombuffer(bytes(raw), np.uint8).reshape(shape)


class _Kind:
    """Stands in for numpy's dtype; keeps its name."""

    def __init__(self, name: Any, *rest: Any) -> None:
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, of which a byte has none."""


def _reconstruct(kind: Any, *rest: Any) -> _Pixels:
    return _Pixels()


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them for Python 2."""
    if encoding != "latin1":
        raise Refused(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Pixels,
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # numpy 2
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Admits STAND_INS, and beside them what pickles spell out: numbers, text, lists, dicts."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise Refused(f"it asks for {module}.{name}")
        return STAND_INS[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise Refused("it asks for an object outside of itself")
