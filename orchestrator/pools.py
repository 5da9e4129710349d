"""A kept pool as a whole: found by what a user types, checked, and read file by file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from dfkd.methods.errors import ConfigError, unknown
from dfkd.methods.shape import ImageShape
from dfkd.orchestrator.pool_files import POOLS, SUFFIX, Provenance, Surveyed, read, survey
from dfkd.orchestrator.runs import SWEEP, find_runs
from dfkd.orchestrator.storage import Folder

MODES = {1: "L", 3: "RGB"}  # PIL's names, by the number of channels


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a pool."""

    image: Tensor
    """uint8 [channels, H, W]."""
    label: int
    loss: float
    about: Provenance
    file: str


def find_pool(name: str, storage: str) -> Folder:
    """The folder of files that a user means by the name of a sweep, a path or a URI.

    Raises ConfigError where there is none, or no file in it.
    """
    run = Folder.of(storage).child(name)
    if "/" not in name and run.exists(SWEEP):
        return _filled(run.child(POOLS), f"sweep {name} kept no pool")
    given = Folder.of(name)
    if given.local is not None and given.local.is_file():
        raise ConfigError(f"{given.uri} is a file; give the folder that it lies in")
    if given.exists(SWEEP):
        return _filled(given.child(POOLS), f"the sweep in {given.uri} kept no pool")
    if given.files() or given.folders():
        return _filled(given, f"{given.uri} holds no pool ({SUFFIX} files)")
    known = [run.name for run in find_runs(Folder.of(storage))]
    raise ConfigError(
        unknown("sweep", name, known) + f" (in {Folder.of(storage).uri}); or give the folder of a "
        f"pool's {SUFFIX} files"
    )


def survey_whole(folder: Folder) -> list[Surveyed]:
    """The files of a pool of which all can be read and have the same classes.

    Raises ConfigError with each one that does not.
    """
    files = survey(folder)
    if not files:
        raise ConfigError(f"{folder.uri} holds no pool ({SUFFIX} files)")
    problems = [file.problem for file in files if file.about is None]
    first = files[0].about
    for file in files:
        if first is not None and file.about is not None and file.about.classes != first.classes:
            problems.append(
                f"{folder.uri_of(file.name)} is of task {file.about.task}, with other classes than "
                f"{files[0].name} of task {first.task}; put it into another folder"
            )
    if problems:
        raise ConfigError(*problems)
    return files


def require_drawable(folder: Folder, shape: ImageShape, teacher: str) -> int:
    """How many images of a kept pool trials of this teacher can be taught from.

    Raises ConfigError if it was made from another teacher, by its fingerprint, or if no image has
    the task's channels and a size up to the task's.
    """
    files = survey_whole(folder)
    for file in files:
        if file.about is not None and file.about.teacher != teacher:
            raise ConfigError(
                f"the pool in {folder.uri} was made from another teacher of {file.about.task} "
                f"({file.about.teacher}, here {teacher}); its images say nothing about this one"
            )
    images = sum(file.images for file in files if file.shape and _fits(file.shape, shape))
    if not images:
        shapes = sorted({str(file.shape) for file in files})
        raise ConfigError(f"no image in {folder.uri} fits {shape}: it holds {', '.join(shapes)}")
    return images


def _told(shape: ImageShape) -> str:
    return f"{shape.channels}x{shape.height}x{shape.width}"


def _fits(image: ImageShape, task: ImageShape) -> bool:
    smaller = image.height <= task.height and image.width <= task.width
    return image.channels == task.channels and smaller


def classes_of(files: Sequence[Surveyed]) -> tuple[str, ...]:
    """Names of the classes, from the first file that can be read."""
    return next((file.about.classes for file in files if file.about is not None), ())


def balance(files: Sequence[Surveyed]) -> dict[str, int]:
    """Images of each class, all files together; classes of one name are told apart."""
    totals: Counter[str] = Counter()
    for file in files:
        if file.about is not None:
            pairs = zip(distinct(file.about.classes), file.per_class, strict=True)
            totals.update(dict(pairs))
    return dict(totals)


def distinct(classes: Sequence[str]) -> list[str]:
    """Names of classes of which no two are equal, as ImageNet's two cranes are.

    >>> distinct(["crane", "dog", "crane"])
    ['crane-0', 'dog', 'crane-2']
    """
    often = Counter(name.casefold() for name in classes)
    numbered = [f"{name}-{label}" for label, name in enumerate(classes)]
    pairs = zip(classes, numbered, strict=True)
    found = [other if often[name.casefold()] > 1 else name for name, other in pairs]
    return found if len({name.casefold() for name in found}) == len(found) else numbered


def samples(folder: Folder, files: Sequence[Surveyed]) -> Iterator[Sample]:
    """Every image, file by file: never is the whole pool in memory."""
    for file in files:
        kept = read(folder, file.name)
        for shard, loss in zip(kept.shards, kept.losses, strict=True):
            for image, label in zip(shard.images, shard.labels.tolist(), strict=True):
                yield Sample(image, label, loss, kept.about, file.name)


def draw(folder: Folder, files: Sequence[Surveyed], per_class: int) -> list[list[Tensor]]:
    """For each class up to `per_class` images, the same ones every time, in the files' order."""
    rng = torch.Generator().manual_seed(0)
    drawn: list[list[Tensor]] = []
    wanted = []
    for total in balance(files).values():
        wanted.append(torch.randperm(total, generator=rng)[:per_class].sort().values)
        drawn.append([])
    seen = [0] * len(wanted)  # images of each class in the files before
    for file in files:
        here = [
            places[(places >= before) & (places < before + count)] - before
            for places, before, count in zip(wanted, seen, file.per_class, strict=True)
        ]
        seen = [before + count for before, count in zip(seen, file.per_class, strict=True)]
        if any(map(len, here)):
            _take(folder, file, here, drawn)
    return drawn


def _take(
    folder: Folder, file: Surveyed, here: Sequence[Tensor], drawn: list[list[Tensor]]
) -> None:
    """Append a file's images at the places `here` of each class to `drawn`."""
    kept = read(folder, file.name, verify=False)
    labels = torch.cat([shard.labels for shard in kept.shards])
    images = [image for shard in kept.shards for image in shard.images]
    for label, places in enumerate(here):
        if len(places):
            rows = labels.eq(label).nonzero().squeeze(1)[places]
            drawn[label] += [images[row].clone() for row in rows.tolist()]


def picture(image: Tensor) -> Image.Image:
    """One image [channels, H, W] for PIL; raises ConfigError unless it is gray or color."""
    if len(image) not in MODES:
        raise ConfigError(
            f"images of {len(image)} channels cannot be drawn, only those of 1 or 3; read the "
            "files as docs/pool-format.md says"
        )
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels.squeeze(2) if len(image) == 1 else pixels)


def _filled(folder: Folder, complaint: str) -> Folder:
    """The folder, if there are files of a pool in it."""
    if not any(name.endswith(SUFFIX) for name in folder.files()):
        raise ConfigError(f"{complaint}; a sweep run with --keep-pool keeps one")
    return folder
