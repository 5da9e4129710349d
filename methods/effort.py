"""What an epoch consists of, counted from a method's settings alone: for plans, and for measuring.

One class for each skeleton. Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfkd.methods.jury import PROBES
from dfkd.methods.settings import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What one worker does in an epoch; fractions where workers take turns."""

    rounds: float = 0.0
    """Of synthesis: batches that are inverted, or turns of a generator."""
    steps: float = 0.0
    """Of all these rounds together."""
    lessons: float = 0.0
    """Steps of the student."""


class Lessons:
    """A method that synthesizes nothing."""

    @staticmethod
    def effort(settings: Any, *, learning: bool, workers: int = 1) -> Effort:
        """An epoch during the warm-up, or once the student learns."""
        return Effort(lessons=settings.kd_steps if learning else 0)

    @classmethod
    def shortened(cls, settings: Any, length: int) -> Mapping[str, Value]:
        """Settings with which an epoch is about `length` steps of each kind, in the same mix."""
        return {"kd_steps": min(settings.kd_steps, length)}

    @staticmethod
    def kept(settings: Any, epochs: int) -> Mapping[str, int]:
        """Rows that the method's stores hold after so many epochs, by the attribute's name."""
        return {}


class Rounds(Lessons):
    """A method that inverts batch after batch into a pool; workers share the rounds."""

    @classmethod
    def sizes_of(cls, settings: Any) -> int:
        """How many sizes of images its rounds take turns in."""
        return 1

    @staticmethod
    def effort(settings: Any, *, learning: bool, workers: int = 1) -> Effort:
        rounds = (settings.rounds if learning else settings.warmup_rounds) / workers
        steps = rounds * settings.synthesis_steps
        return Effort(rounds=rounds, steps=steps, lessons=settings.kd_steps if learning else 0)

    @classmethod
    def shortened(cls, settings: Any, length: int) -> Mapping[str, Value]:
        sizes = cls.sizes_of(settings)
        return {
            "warmup_rounds": min(settings.warmup_rounds, sizes),
            "rounds": min(settings.rounds, sizes),
            "synthesis_steps": min(settings.synthesis_steps, length),
            "kd_steps": min(settings.kd_steps, length),
        }

    @staticmethod
    def kept(settings: Any, epochs: int) -> Mapping[str, int]:
        taught = made(settings, epochs, 1 - settings.held_out)
        aside = min(PROBES, made(settings, epochs, settings.held_out))
        return {"pool": min(taught, settings.pool_capacity or taught), "aside": aside}


class Turns(Lessons):
    """A method whose generator has its turn before every `student_steps` steps of the student."""

    @staticmethod
    def effort(settings: Any, *, learning: bool, workers: int = 1) -> Effort:
        turns = -(-settings.kd_steps // settings.student_steps)
        steps = turns * settings.generator_steps
        return Effort(rounds=turns, steps=steps, lessons=settings.kd_steps if learning else 0)

    @classmethod
    def shortened(cls, settings: Any, length: int) -> Mapping[str, Value]:
        turns = max(1, length // settings.student_steps)
        return {"kd_steps": min(settings.kd_steps, turns * settings.student_steps)}


def made(settings: Any, epochs: int, share: float = 1.0) -> int:
    """Images that an inversion's rounds make in so many epochs, or a share of each round's."""
    warm = min(settings.warmup, epochs)
    rounds: int = warm * settings.warmup_rounds + (epochs - warm) * settings.rounds
    batch: int = settings.batch_size
    return round(rounds * share * batch)
