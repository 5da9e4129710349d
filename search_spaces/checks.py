"""What reading a YAML tree has in common, whatever it declares: every problem is noted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from dfkd.methods.errors import unknown
from dfkd.methods.settings import coerce


class Checks:
    """Notes every problem on the way.

    Where something is missing or wrong, a method notes it and returns something harmless.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []

    def object(self, problem: str) -> None:
        self.problems.append(f"{self.where}: {problem}")

    def known(self, tree: Mapping[Any, Any], keys: Iterable[str], prefix: str) -> dict[str, Any]:
        """The part of a mapping whose keys are known."""
        for key in tree:
            if key not in keys:
                self.object(prefix + unknown("key", str(key), keys))
        return {key: value for key, value in tree.items() if key in keys}

    def whole(self, value: Any, key: str) -> int:
        try:
            number = int(coerce(value, int))
        except ValueError as error:
            self.object(f"{key} {error}, got {value!r}")
            return 1
        if number < 1:
            self.object(f"{key} must be at least 1, got {value!r}")
        return number

    def named(self, tree: Any, key: str) -> dict[str, Any]:
        """A mapping whose keys are text; nothing at all counts as an empty one."""
        if tree is None:
            return {}
        if not isinstance(tree, dict):
            self.object(f"{key} must be a mapping of keys, got {tree!r}")
            return {}
        for name in tree:
            if not isinstance(name, str):
                self.object(f"{key}: a setting's name must be text, got {name!r}")
        return tree

    def channel_numbers(self, listed: Any, key: str, channels: int | None) -> tuple[float, ...]:
        try:
            numbers = tuple(float(coerce(number, float)) for number in listed or ())
        except (TypeError, ValueError):
            numbers = ()
        if (
            not isinstance(listed, list)
            or not numbers
            or not all(map(math.isfinite, numbers))
            or (channels is not None and len(numbers) != channels)
        ):
            self.object(f"normalize.{key} must list one number per channel, got {listed!r}")
            return ()
        return numbers
