"""Classes as a task lists them: names, WordNet ids, or the name of a list.

ImageNet and what was cut from it call their folders by WordNet ids, such as n01440764. Names are
those that ImageNet's label set ships with, so that its embeddings fit; of ids beyond ImageNet's
thousand classes, the first lemma in timm's tables.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dfkd.methods.errors import unknown
from dfkd.methods.label_sets import shipped_names
from dfkd.search_spaces.files import packaged_file

LISTS = ("imagenet",)
WORDNET_ID = r"n\d{8}"
TABLES = "data/_info/{}.txt"  # in timm


@dataclass(frozen=True, slots=True)
class Classes:
    """Class i is called `names[i]`; in folders of images also `ids[i]`, if that is not empty."""

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()


def find_classes(declared: Sequence[str] | str) -> Classes:
    """What a task's `classes` mean; raises ValueError with a reason that follows that key."""
    if isinstance(declared, str):
        if declared not in LISTS:
            raise ValueError(
                f"must be a list, or the name of one; {unknown('list', declared, LISTS)}"
            )
        return Classes(shipped_names("imagenet"), _imagenet_ids())
    ids = tuple(name if re.fullmatch(WORDNET_ID, name) else "" for name in declared)
    repeated = sorted({id for id in ids if id and ids.count(id) > 1})
    if repeated:
        raise ValueError(f"lists {', '.join(repeated[:3])} more than once")
    names = tuple(wordnet_name(id) if id else name for id, name in zip(ids, declared, strict=True))
    return Classes(names, ids)


def wordnet_name(id: str) -> str:
    """What a WordNet id means in English."""
    thousand = _imagenet_ids()
    if id in thousand:
        return shipped_names("imagenet")[thousand.index(id)]
    lemmas = _lemmas()
    if id not in lemmas:
        raise ValueError(f"lists {id}, which is no WordNet id of ImageNet")
    return lemmas[id].split(", ")[0]


@functools.cache
def _imagenet_ids() -> tuple[str, ...]:
    """Those of ImageNet's thousand classes, in the order of its labels."""
    return tuple(_table("imagenet_synsets").read_text(encoding="utf-8").split())


@functools.cache
def _lemmas() -> dict[str, str]:
    """Synonyms, comma-separated, of all of ImageNet's 21 thousand ids."""
    lines = _table("imagenet_synset_to_lemma").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("\t") for line in lines)
    return {id: synonyms for id, _, synonyms in pairs}


def _table(name: str) -> Path:
    path = packaged_file("timm", TABLES.format(name))
    if path is None:
        raise ValueError("have WordNet ids, whose names come with timm: pip install 'timm>=1'")
    return path


def label_of(name: str, classes: Classes) -> int | None:
    """The class that is called so, or whose id this is; None where none is, or several may be."""
    for names in (classes.ids, classes.names):
        if name and names.count(name) == 1:
            return names.index(name)
    alike = [index for index, known in enumerate(classes.names) if plain(known) == plain(name)]
    return alike[0] if len(alike) == 1 else None


@functools.lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """What names are compared by; a class called T-shirt/top cannot be a folder's name.

    >>> plain("T-shirt/top") == plain("t_shirt top")
    True
    """
    return " ".join(re.split(r"[\s_/-]+", name.casefold()))


def renumbering(names: Sequence[str], classes: Classes) -> list[int] | None:
    """The task's number of each of the classes that data call by `names`.

    None where these are not just the task's: its numbers are then the data's.

    >>> renumbering(["cat", "dog"], Classes(("Dog", "Cat")))
    [1, 0]
    """
    found = [label_of(name, classes) for name in names]
    known = [label for label in found if label is not None]
    whole = len(known) == len(names) and sorted(known) == list(range(len(classes.names)))
    return known if whole else None
