"""Published results of a task: what papers report, to compare one's own figures with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfkd.methods.errors import unknown
from dfkd.methods.settings import coerce

KEYS = ("source", "teacher", "student", "accuracy")


@dataclass(frozen=True, slots=True)
class Published:
    """Accuracies in percent that one source reports for one pair of networks, by method."""

    source: str
    teacher: str
    student: str
    accuracy: Mapping[str, float]


def parse_published(declared: Any) -> Published:
    """One entry of a task's `published`; raises ValueError with what is wrong with it."""
    if not isinstance(declared, dict):
        raise ValueError(f"must be a mapping of keys, got {declared!r}")
    for key in declared:
        if key not in KEYS:
            raise ValueError(unknown("key", str(key), KEYS))
    missing = [key for key in KEYS if key not in declared]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    source, teacher, student = words = [declared[key] for key in KEYS[:3]]
    if not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"needs text for source, teacher and student, got {words!r}")
    given = declared["accuracy"]
    if not isinstance(given, dict) or not given:
        raise ValueError(f"needs an accuracy for each method, got {given!r}")
    accuracy = {str(name): _percent(name, value) for name, value in given.items()}
    return Published(source, teacher, student, accuracy)


def _percent(name: Any, value: Any) -> float:
    try:
        number = float(coerce(value, float))
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise ValueError(f"has accuracies in percent, got {value!r} for {name}")
    return number
