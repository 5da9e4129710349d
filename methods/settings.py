"""Settings of a method: frozen dataclasses whose fields know their bounds and their help.

A method declares `class NayerSettings` with `setting(...)` fields. One check serves when an
instance is made, when a task file or `--set KEY=VALUE` names a key, and when a search space
proposes values. Every problem is found, not only the first.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from dfkd.methods.errors import ConfigError, unknown

Value = bool | int | float | str
C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a setting may be, and what it means."""

    help: str
    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    choices: tuple[Value, ...] = ()

    def problem(self, value: Value) -> str | None:
        """Why `value` is out of bounds, or None."""
        if self.choices:
            options = ", ".join(map(str, self.choices))
            return None if value in self.choices else f"must be one of {options}"
        if isinstance(value, str):
            return None
        if not math.isfinite(value):
            return "must be finite"
        if value < self.at_least:
            return f"must be at least {self.at_least:g}"
        if value > self.at_most:
            return f"must be at most {self.at_most:g}"
        if value <= self.above:
            return f"must be above {self.above:g}"
        return None


def setting(default: Value, help: str, **bounds: Any) -> Any:
    """A dataclass field with bounds: `steps: int = setting(10, "...", at_least=1)`."""
    return dataclasses.field(default=default, metadata={"bounds": Bounds(help=help, **bounds)})


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as `dfkd methods NAME` shows it."""

    name: str
    type: type
    default: Value
    bounds: Bounds


def describe(config: type) -> dict[str, Described]:
    """The settings of a configuration class, by name, in declaration order."""
    types = typing.get_type_hints(config)
    return {
        f.name: Described(f.name, types[f.name], cast(Value, f.default), f.metadata["bounds"])
        for f in dataclasses.fields(config)
    }


def coerce(value: Any, wanted: type) -> Value:
    """`value` as `wanted`, where that loses nothing; raises ValueError otherwise.

    >>> coerce(3, float), coerce("0.1", float), coerce(4.0, int), coerce("true", bool)
    (3.0, 0.1, 4, True)
    """
    if wanted is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise ValueError("must be true or false")
    if wanted is str:
        if isinstance(value, str):
            return value
        raise ValueError("must be a word")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number")
    try:
        number = float(value)
    except (OverflowError, ValueError):
        raise ValueError("must be a number") from None
    if wanted is float:
        return number
    if not number.is_integer():
        raise ValueError("must be a whole number")
    return value if isinstance(value, int) else int(number)


def problems(config: type, values: Mapping[str, Any], where: str) -> list[str]:
    """Everything wrong with `values` for `config`; `where` names their owner in the sentences."""
    known = describe(config)
    found = []
    for name, value in values.items():
        if name not in known:
            found.append(f"{where}: {unknown('setting', str(name), known)}")
            continue
        if value is None:
            found.append(f"{where}: {name} needs a value, {name}=VALUE")
            continue
        try:
            reason = known[name].bounds.problem(coerce(value, known[name].type))
        except ValueError as error:
            reason = str(error)
        if reason is not None:
            found.append(f"{where}: {name} {reason}, got {value!r}")
    return found


def build(config: type[C], values: Mapping[str, Any], where: str) -> C:
    """An instance of `config` from loosely typed values; raises ConfigError with all problems."""
    found = problems(config, values, where)
    if found:
        raise ConfigError(*found)
    known = describe(config)
    return config(**{name: coerce(value, known[name].type) for name, value in values.items()})


def check(config: Any) -> None:
    """Call from `__post_init__`: refuse an instance that is out of bounds."""
    found = problems(type(config), dataclasses.asdict(config), type(config).__name__)
    if found:
        raise ConfigError(*found)
    for name, known in describe(type(config)).items():  # 4.0 and "4" become 4
        object.__setattr__(config, name, coerce(getattr(config, name), known.type))
