"""Pools on storage: shards as Arrow files, which need no dfkd to be read (docs/pool-format.md).

What is read back from a local disk is mapped into memory: nobody may write into it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.utils.dlpack
from torch import Tensor

from dfkd.methods.errors import ConfigError
from dfkd.methods.memory import Shard
from dfkd.methods.shape import ImageShape
from dfkd.methods.shelf import contents, digest
from dfkd.orchestrator.patience import StorageFailed, StorageRefused
from dfkd.orchestrator.storage import Folder

POOLS = "pools"  # where they lie in a run folder
SUFFIX = ".arrow"
FORMAT = "1"  # raise it when what was written before cannot be read as before
FORMAT_KEY, DIGEST_KEY, PROVENANCE_KEY = "dfkd_format", "dfkd_digest", "dfkd_provenance"
LABEL = 1  # the column's place
KINDS: Mapping[Any, type] = {"str": str, "int": int, "tuple[str, ...]": list}  # of JSON
SPOILED = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where shards come from."""

    task: str
    teacher: str
    """Its fingerprint."""
    method: str
    recipe: str
    """A short hash of it."""
    trial: str
    epoch: int
    worker: int
    seed: int
    classes: tuple[str, ...]
    """Their names: label 0 is the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """A file that was read."""

    about: Provenance
    shards: list[Shard]
    """On the CPU, to be left as they are."""
    losses: list[float]
    """The synthesis loss of each shard; NaN where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """A file as it looks from outside: its images were not read."""

    name: str
    bytes: int = 0
    about: Provenance | None = None
    """None where the file cannot be read, as is the next."""
    shape: ImageShape | None = None
    per_class: tuple[int, ...] = ()
    """Images of each class."""
    problem: str = ""
    """Why it cannot be read."""

    @property
    def images(self) -> int:
        return sum(self.per_class)


def keep(
    folder: Folder, shards: Sequence[Shard], losses: Sequence[float], about: Provenance
) -> list[str]:
    """Write shards to one file per size of image; returns the files' names.

    They are called by what they hold: shards that were kept before stay one file, with the
    provenance that they had. Shards without images are left out.
    """
    sized: dict[tuple[int, ...], list[tuple[Shard, float]]] = {}
    for shard, loss in zip(shards, losses, strict=True):
        if len(shard.images):
            kept = _plain(shard, len(about.classes))
            sized.setdefault(tuple(kept.images.shape[1:]), []).append((kept, loss))
    names = []
    for group in sized.values():
        seal = digest(*contents([shard for shard, _ in group]))
        if not folder.exists(seal + SUFFIX):
            folder.write(seal + SUFFIX, _written(group, about, seal))
        names.append(seal + SUFFIX)
    return names


def read(folder: Folder, name: str, verify: bool = True) -> KeptFile:
    """Read a file back; raises ConfigError where it is damaged, or none of ours.

    On a local disk its pages are loaded when they are looked at. To `verify` that images and labels
    are those that were written is to look at all of them.
    """
    with _explained(folder, name):
        schema, batches = folder.patiently(lambda: _batches(folder, name))
        about, shape = _described(schema)
        shards = [_shard(batch, shape, len(about.classes)) for batch in batches]
        seal = _metadata(schema)[DIGEST_KEY]
        if verify and digest(*contents(shards)) != seal:
            raise ValueError("its images are not those that were written")
        losses = [float(batch.column("loss")[0].as_py()) for batch in batches]
        return KeptFile(about=about, shards=shards, losses=losses)


def _batches(folder: Folder, name: str) -> tuple[Any, list[Any]]:
    with folder.open(name) as file:
        reader = pa.ipc.open_file(file)
        return reader.schema, [reader.get_batch(i) for i in range(reader.num_record_batches)]


def survey(folder: Folder) -> list[Surveyed]:
    """What lies there, by trial, epoch and worker; those that cannot be read come last."""
    names = [name for name in folder.files() if name.endswith(SUFFIX)]
    return sorted((_look(folder, name) for name in names), key=_place)


def _place(file: Surveyed) -> tuple[Any, ...]:
    about = file.about
    return (1,) if about is None else (0, about.trial, about.epoch, about.worker, file.name)


def _look(folder: Folder, name: str) -> Surveyed:
    """A file's schema and labels; images are not fetched."""
    size = 0

    def look() -> tuple[Any, list[Any]]:
        nonlocal size
        with folder.open(name) as file:
            size = file.size()
            only_labels = pa.ipc.IpcReadOptions(included_fields=[LABEL])
            reader = pa.ipc.open_file(file, options=only_labels)
            labels = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            return pa.ipc.open_file(file).schema, labels

    try:
        with _explained(folder, name):
            schema, batches = folder.patiently(look)
            about, shape = _described(schema)
            count = len(about.classes)
            per_class = torch.zeros(count, dtype=torch.int64)
            for batch in batches:
                per_class += _labels(batch, count).bincount(minlength=count)
    except ConfigError as error:
        return Surveyed(name=name, bytes=size, problem=str(error))
    found = tuple(per_class.tolist())
    return Surveyed(name=name, bytes=size, about=about, shape=shape, per_class=found)


@contextmanager
def _explained(folder: Folder, name: str) -> Iterator[None]:
    """Turns whatever Arrow says of a bad file into what a user can do."""
    place = folder.uri_of(name)
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{place} does not exist; `dfkd pool ls` lists a pool's files") from None
    except (StorageFailed, StorageRefused):
        raise
    except SPOILED as error:
        told = str(error).partition("\n")[0] + " is missing" * isinstance(error, KeyError)
        raise ConfigError(
            f"{place} is damaged, or no file of a pool: {told}; copy it again, or delete it: the "
            "other files do not need it"
        ) from None


def _plain(shard: Shard, classes: int) -> Shard:
    """On the CPU, with labels as in the file; raises ValueError for what cannot be kept."""
    images, labels = shard.images.detach().cpu(), shard.labels.detach().cpu()
    if images.dtype != torch.uint8 or images.dim() != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            "a shard is images uint8 [B, channels, H, W] and labels [B], got "
            f"{images.dtype} {list(images.shape)} and {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels must be 0 to {classes - 1}, got {found}")
    return Shard(images, labels.to(torch.int64))


def _written(group: Sequence[tuple[Shard, float]], about: Provenance, seal: str) -> bytes:
    """The file of shards of one size."""
    shape = group[0][0].images.shape[1:]
    names = ("channel", "row", "column")
    columns = {
        "image": pa.fixed_shape_tensor(pa.uint8(), tuple(shape), dim_names=names),
        "label": pa.int64(),
        "loss": pa.float32(),
    }
    provenance = json.dumps(asdict(about))
    metadata = {FORMAT_KEY: FORMAT, DIGEST_KEY: seal, PROVENANCE_KEY: provenance}
    listed = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    schema = pa.schema(listed, metadata=metadata)
    stream = pa.BufferOutputStream()
    with pa.ipc.new_file(stream, schema) as writer:
        for shard, loss in group:
            pixels = pa.array(shard.images.numpy().reshape(-1))
            lists = pa.FixedSizeListArray.from_arrays(pixels, shape.numel())
            images = pa.ExtensionArray.from_storage(columns["image"], lists)
            losses = pa.array(np.full(len(shard.labels), loss, np.float32))
            arrays = [images, pa.array(shard.labels.numpy()), losses]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    data: bytes = stream.getvalue().to_pybytes()
    return data


def _described(schema: Any) -> tuple[Provenance, ImageShape]:
    """What a schema says; raises one of SPOILED where it is not that of a pool's file."""
    metadata = _metadata(schema)
    if FORMAT_KEY not in metadata:
        raise ValueError("dfkd did not write it")
    if metadata[FORMAT_KEY] != FORMAT:
        raise ValueError(f"it has format {metadata[FORMAT_KEY]}, this dfkd reads {FORMAT}")
    kinds = {field.name: field.type for field in schema}
    image = kinds.get("image")
    if (
        list(kinds) != ["image", "label", "loss"]
        or (kinds["label"], kinds["loss"]) != (pa.int64(), pa.float32())
        or not isinstance(image, pa.FixedShapeTensorType)
        or image.value_type != pa.uint8()
        or image.permutation is not None
    ):
        raise ValueError("its columns are not those of a pool")
    tree = json.loads(metadata[PROVENANCE_KEY])
    given = {field.name: tree[field.name] for field in fields(Provenance)}
    for field in fields(Provenance):
        if not isinstance(given[field.name], KINDS[field.type]):
            raise ValueError(f"{field.name} cannot be {given[field.name]!r}")
    about = Provenance(**given | {"classes": tuple(tree["classes"])})
    return about, ImageShape(*image.shape)


def _metadata(schema: Any) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}


def _labels(batch: Any, classes: int) -> Tensor:
    """A batch's labels where they lie; raises ValueError where it is not as it was written."""
    batch.validate()
    if not batch.num_rows or any(column.null_count for column in batch.columns):
        raise ValueError("values are missing")
    labels: Tensor = torch.utils.dlpack.from_dlpack(batch.column("label"))
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels are not below {classes}, the number of its classes")
    return labels


def _shard(batch: Any, shape: ImageShape, classes: int) -> Shard:
    """A batch's images and labels, without a copy."""
    labels = _labels(batch, classes)
    pixels = torch.utils.dlpack.from_dlpack(batch.column("image").storage.flatten())
    return Shard(pixels.view(-1, shape.channels, shape.height, shape.width), labels)
