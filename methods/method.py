"""What a method is, and what it is given to work with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from dfkd.methods.commons import Commons, NoCommons
from dfkd.methods.effort import Effort
from dfkd.methods.memory import ImageSource
from dfkd.methods.settings import Value
from dfkd.methods.shape import ImageShape
from dfkd.methods.shelf import NoShelf, Shelf
from dfkd.methods.student import Student, StudentSettings
from dfkd.methods.teacher import Teacher
from dfkd.methods.team import Team

Metrics = dict[str, float]


class Clock:
    """Wall seconds spent per activity since the last `read()`."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        """Count the block's time as `activity`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self._seconds[activity] = self._seconds.get(activity, 0.0) + spent

    def read(self) -> dict[str, float]:
        """The seconds per activity, and start again from zero."""
        seconds, self._seconds = self._seconds, {}
        return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """Everything around a method in one trial."""

    teacher: Teacher
    student: Student
    embeddings: Tensor
    """Label-text embeddings [C, D], on the device."""
    shape: ImageShape
    classes: int
    seed: int
    team: Team
    device: torch.device
    clock: Clock = field(default_factory=Clock)
    shelf: Shelf = field(default_factory=NoShelf)
    """Where trials leave synthesis for each other."""
    commons: Commons = field(default_factory=NoCommons)
    """Shards of other trials, and where this one's go."""


class Method(Protocol):
    """One way to distill without data. A method's file holds its settings class and this class."""

    settings_class: ClassVar[type[StudentSettings]]
    presets: ClassVar[Mapping[str, Mapping[str, Value]]]
    """Named bundles of settings: `paper`, the published ones where the defaults differ; `small`,
    what suits small images on a CPU, which the tasks of that kind start from."""

    def __init__(self, settings: Any, bench: Workbench) -> None: ...

    @staticmethod
    def objections(settings: Any, teacher: Teacher) -> list[str]:
        """Why these settings cannot work with this teacher; empty when they can."""
        ...

    @staticmethod
    def effort(settings: Any, *, learning: bool, workers: int = 1) -> Effort:
        """What an epoch consists of, during the warm-up or once the student learns."""
        ...

    @classmethod
    def shortened(cls, settings: Any, length: int) -> Mapping[str, Value]:
        """Settings with which an epoch is about `length` steps of each kind, in the same mix."""
        ...

    @staticmethod
    def kept(settings: Any, epochs: int) -> Mapping[str, int]:
        """Rows that its stores hold after so many epochs, by the attribute's name."""
        ...

    def epoch(self, epoch: int, rng: torch.Generator) -> Metrics:
        """Synthesize and distill once; returns losses and counts by name."""
        ...

    @property
    def source(self) -> ImageSource:
        """Where the student's images come from."""
        ...

    def probes(self, count: int, rng: torch.Generator) -> Tensor:
        """Up to `count` images uint8 [M, channels, H, W] that no other student was taught from."""
        ...

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, student excepted; tensors, numbers, lists, dicts.

        It may hold live tensors: to be written before the method goes on. What is long comes in
        pieces (pieces.py), of which storage writes only those that are new.
        """
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Become the method whose `state()` this is; lists of long tensors can only be iterated."""
        ...
