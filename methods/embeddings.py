"""Label-text embeddings: one vector per class, the condition of a generator.

`minilm` rows are sentence embeddings of "a photo of a {name}", computed once for common label sets
by scripts/make_label_embeddings.py and shipped in methods/priors/. Only this module reads them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dfkd.methods.errors import ConfigError, unknown
from dfkd.methods.label_sets import SHIPPED

SOURCES = ("minilm", "onehot", "random")
RANDOM_WIDTH = 384  # that of the sentence encoder, so that both fit the same generator
NAMED = 5  # how many missing class names an error lists
INSTEAD = "use onehot, random or a .safetensors file with a tensor 'embeddings' [classes, width]"


@dataclass(frozen=True, slots=True, eq=False)
class LabelEmbeddings:
    """Row i of `vectors` [C, D], float32, belongs to `classes[i]`; `source` is their origin."""

    vectors: Tensor
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        if self.vectors.dim() != 2 or len(self.vectors) != len(self.classes):
            shape = list(self.vectors.shape)
            raise ValueError(
                f"expected one row for each of {len(self.classes)} classes, got {shape}"
            )


def load_label_embeddings(source: str, classes: Sequence[str], seed: int = 0) -> LabelEmbeddings:
    """The embeddings of `classes`, in their order; raises ConfigError where `source` has none.

    minilm   rows of a shipped label set that holds every name (case, `_` and `-` do not matter)
    onehot   the identity
    random   unit vectors drawn with `seed`
    a path   a .safetensors file with a tensor `embeddings`: rows are picked by name where its
             metadata has `classes` (a JSON list), else taken in order; they are not normalized
    """
    names = tuple(classes)
    if source == "minilm":
        return _from_shipped(names)
    if source == "onehot":
        return LabelEmbeddings(torch.eye(len(names)), names, source)
    if source == "random":
        rng = torch.Generator().manual_seed(seed)
        vectors = F.normalize(torch.randn(len(names), RANDOM_WIDTH, generator=rng), dim=1)
        return LabelEmbeddings(vectors, names, f"random, seed {seed}")
    if source.endswith(".safetensors"):
        return _from_file(Path(source), names)
    raise ConfigError(
        f"{unknown('label embeddings', source, SOURCES)}, or the path of a .safetensors file"
    )


def _from_shipped(names: tuple[str, ...]) -> LabelEmbeddings:
    nearest, fewest = "", names
    for label_set in SHIPPED:
        with as_file(files(__package__) / "priors" / f"{label_set}.safetensors") as path:
            vectors, known = _read(path)
        missing = _missing(names, known or ())
        if not missing:
            rows = _pick(vectors, known or (), names)
            return LabelEmbeddings(rows, names, f"minilm, {label_set}")
        if len(missing) < len(fewest):
            nearest, fewest = label_set, missing
    lack = f"the nearest shipped label set, {nearest}, lacks" if nearest else "no label set has"
    raise ConfigError(
        f"label embeddings 'minilm': {lack} {_listed(fewest)}; rename the classes, or {INSTEAD}"
    )


def _from_file(path: Path, names: tuple[str, ...]) -> LabelEmbeddings:
    vectors, known = _read(path)
    if known is None:
        if len(vectors) != len(names):
            raise ConfigError(
                f"label embeddings '{path}': {len(vectors)} rows for {len(names)} classes; "
                "write one row per class, in the order of the task, or name the rows in the "
                "metadata as 'classes' (a JSON list)"
            )
        return LabelEmbeddings(vectors, names, str(path))
    missing = _missing(names, known)
    if missing:
        raise ConfigError(
            f"label embeddings '{path}': lacks {_listed(missing)}; add their rows to the file and "
            "their names to its metadata 'classes', or use onehot or random"
        )
    return LabelEmbeddings(_pick(vectors, known, names), names, str(path))


def _read(path: Path) -> tuple[Tensor, tuple[str, ...] | None]:
    """The tensor `embeddings` of a file, and the names of its rows where the metadata has them."""
    if not path.is_file():
        raise ConfigError(f"label embeddings '{path}': no such file; check the path, or {INSTEAD}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = sorted(file.keys())
            vectors = file.get_tensor("embeddings").clone() if "embeddings" in tensors else None
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"label embeddings '{path}': not a readable safetensors file ({error}); "
            "write it again with safetensors.torch.save_file"
        ) from error
    if vectors is None:
        raise ConfigError(
            f"label embeddings '{path}': no tensor 'embeddings', only {_listed(tuple(tensors))}; "
            "save the rows under that name"
        )
    problem = _problem(vectors)
    if problem:
        raise ConfigError(f"label embeddings '{path}': 'embeddings' {problem}")
    return vectors.float(), _row_names(path, metadata, len(vectors))


def _problem(vectors: Tensor) -> str | None:
    if vectors.dim() != 2 or vectors.numel() == 0:
        return f"has shape {list(vectors.shape)}; save it as [classes, width]"
    if not vectors.is_floating_point():
        return f"is {vectors.dtype}; save it as float32"
    if not vectors.float().isfinite().all():
        return "holds values that are not finite; compute them again"
    return None


def _row_names(path: Path, metadata: dict[str, str], rows: int) -> tuple[str, ...] | None:
    if "classes" not in metadata:
        return None
    try:
        names = json.loads(metadata["classes"])
    except json.JSONDecodeError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"label embeddings '{path}': metadata 'classes' is {metadata['classes'][:60]!r}; "
            "write a JSON list of names"
        )
    if len(names) != rows:
        raise ConfigError(
            f"label embeddings '{path}': {rows} rows but {len(names)} names in metadata 'classes'; "
            "write one name per row"
        )
    return tuple(names)


def _key(name: str) -> str:
    """What names are compared by.

    >>> _key("Sweet_Pepper") == _key("sweet-pepper")
    True
    """
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _missing(names: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    keys = {_key(name) for name in known}
    return tuple(name for name in names if _key(name) not in keys)


def _pick(vectors: Tensor, known: tuple[str, ...], names: tuple[str, ...]) -> Tensor:
    wanted, rows = [_key(name) for name in names], [_key(name) for name in known]
    if wanted == rows:  # also right where a name occurs twice, as in ImageNet
        return vectors
    return vectors[[rows.index(key) for key in wanted]]


def _listed(names: tuple[str, ...]) -> str:
    first = ", ".join(f"'{name}'" for name in names[:NAMED])
    return first if len(names) <= NAMED else f"{first} and {len(names) - NAMED} more"
