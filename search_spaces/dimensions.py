"""What a sweep may vary: ranges and choices, read from a task's YAML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfkd.methods.settings import Value, coerce


@dataclass(frozen=True, slots=True)
class Real:
    """A number in [low, high], drawn evenly or, with `log`, evenly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low:g} .. {self.high:g}{' (log)' if self.log else ''}"


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number in [low, high]; `log` as for Real."""

    low: int
    high: int
    log: bool = False

    def __str__(self) -> str:
        return f"{self.low} .. {self.high} whole{' (log)' if self.log else ''}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    options: tuple[Value, ...]

    def __str__(self) -> str:
        return ", ".join(map(str, self.options))


Dimension = Real | Whole | Choice


def parse_dimension(declared: Any) -> Dimension:
    """Read `{low:, high:, log:}`, `{low:, high:, whole: true}` or a list of options.

    Raises ValueError with a reason that follows the dimension's name in a sentence.

    >>> parse_dimension({"low": 0.01, "high": 1, "log": True})
    Real(low=0.01, high=1.0, log=True)
    >>> parse_dimension([1, 2, 4])
    Choice(options=(1, 2, 4))
    """
    if isinstance(declared, list) and declared:
        if not all(_is_value(option) for option in declared):
            raise ValueError(f"may only list numbers and words, got {declared!r}")
        return Choice(tuple(declared))
    if not isinstance(declared, Mapping) or not {"low", "high"} <= set(declared):
        raise ValueError(f"must be a list of options or hold low and high, got {declared!r}")
    extra = [str(key) for key in declared if key not in ("low", "high", "log", "whole")]
    if extra:
        raise ValueError(f"knows low, high, log and whole, got {', '.join(sorted(extra))}")
    try:
        low, high = (float(coerce(declared[end], float)) for end in ("low", "high"))
    except ValueError:
        raise ValueError(f"needs numbers for low and high, got {declared!r}") from None
    log, whole = _switch(declared, "log"), _switch(declared, "whole")
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"needs finite low < high, got {low:g} and {high:g}")
    if log and low <= 0:
        raise ValueError(f"is logarithmic, so low must be above 0, got {low:g}")
    if not whole:
        return Real(low, high, log)
    if not (low.is_integer() and high.is_integer()):
        raise ValueError(f"is whole, so low and high must be, got {low:g} and {high:g}")
    return Whole(int(low), int(high), log)


def _is_value(option: Any) -> bool:
    if isinstance(option, float):
        return math.isfinite(option)
    return isinstance(option, bool | int | str)


def _switch(declared: Mapping[Any, Any], key: str) -> bool:
    try:
        return bool(coerce(declared.get(key, False), bool))
    except ValueError as error:
        raise ValueError(f"has {key}, which {error}, got {declared[key]!r}") from None


def ends(dimension: Dimension) -> list[Value]:
    """The values that bound a dimension: if these are allowed for a setting, all are."""
    if isinstance(dimension, Choice):
        return list(dimension.options)
    return [dimension.low, dimension.high]


def declaration(dimension: Dimension) -> Any:
    """What `parse_dimension` reads back as this dimension, in JSON's types."""
    if isinstance(dimension, Choice):
        return list(dimension.options)
    whole = {"whole": True} if isinstance(dimension, Whole) else {}
    return {"low": dimension.low, "high": dimension.high, "log": dimension.log, **whole}
