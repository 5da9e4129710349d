"""A pool for other programs: a folder of image files per class, or webdataset's tar files.

Both hold the same bytes every time, and are written while the pool is read, file by file.
"""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import chain, islice

from dfkd.methods.errors import ConfigError, DfkdError, unknown
from dfkd.orchestrator.pools import Sample, classes_of, distinct, picture, samples, survey_whole
from dfkd.orchestrator.storage import Folder

IMAGES_PER_TAR = 10_000
BYTES_PER_TAR = 1_000_000_000
DIGITS = 6  # of an image's number, at least

Progress = Callable[[int, int], None]
"""Told images done and images in all."""
Numbered = Iterator[tuple[str, Sample]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedPool:
    """What an export wrote."""

    folder: str
    images: int
    format: str


def export_pool(folder: Folder, to: str, format: str, on_progress: Progress) -> ExportedPool:
    """Write a pool's images to the new or empty folder `to`.

    Raises ConfigError where there is nothing to export, or no place to, and where a file's images
    turn out to be damaged; DfkdError where the disk is full.
    """
    if format not in FORMATS:
        raise ConfigError(unknown("format", format, FORMATS))
    files = survey_whole(folder)
    target = Folder.of(to)
    target.require_writable("--to")
    if target.files() or target.folders():
        raise ConfigError(f"{target.uri} is not empty; choose another folder with --to")
    total = sum(file.images for file in files)
    numbered = _numbered(samples(folder, files), total, on_progress)
    try:
        FORMATS[format](numbered, target, folder_names(classes_of(files)))
    except OSError as error:
        raise DfkdError(
            f"{target.uri} holds a part only: {error.strerror or error}; make room, empty it and "
            "export again"
        ) from None
    return ExportedPool(folder=target.uri, images=total, format=format)


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """What the folders of classes are called: dfkd's own reader takes them for the same classes.

    >>> folder_names(("T-shirt/top", "..", "bag", "Bag"))
    ['T-shirt_top', '_.', 'bag-2', 'Bag-3']
    """
    plain = [re.sub(r"^\.|^$|[/\\\0]", "_", name) for name in classes]
    return distinct(plain)


def _numbered(images: Iterator[Sample], total: int, on_progress: Progress) -> Numbered:
    """Each image with its place in the pool as digits, so that names sort as the pool does."""
    width = max(DIGITS, len(str(total)))
    for number, sample in enumerate(images):
        yield f"{number:0{width}}", sample
        on_progress(number + 1, total)


def _image_folder(numbered: Numbered, to: Folder, names: list[str]) -> None:
    """<to>/<class>/<number>.png, as torchvision's ImageFolder reads them."""
    for number, sample in numbered:
        with to.child(names[sample.label]).stream(f"{number}.png") as stream:
            stream.write(_png(sample))


def _webdataset(numbered: Numbered, to: Folder, names: list[str]) -> None:
    """<to>/000000.tar and so on: of each image <number>.png, .cls (the label), .json."""
    for tar_number, first in enumerate(numbered):
        with (
            to.stream(f"{tar_number:06}.tar") as stream,
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for number, sample in islice(chain([first], numbered), IMAGES_PER_TAR):
                _add(tar, f"{number}.png", _png(sample))
                _add(tar, f"{number}.cls", str(sample.label).encode())
                _add(tar, f"{number}.json", json.dumps(_facts(sample)).encode())
                if tar.offset >= BYTES_PER_TAR:
                    break


def _facts(sample: Sample) -> dict[str, object]:
    """An image's provenance as JSON values: its own class instead of the names of all."""
    about = sample.about
    facts = {f.name: getattr(about, f.name) for f in fields(about) if f.name != "classes"}
    loss = sample.loss if math.isfinite(sample.loss) else None
    return facts | {"class": about.classes[sample.label], "loss": loss, "file": sample.file}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member without an owner and without a time."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _png(sample: Sample) -> bytes:
    buffer = io.BytesIO()
    picture(sample.image).save(buffer, "PNG")
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Numbered, Folder, list[str]], None]] = {
    "imagefolder": _image_folder,
    "webdataset": _webdataset,
}
