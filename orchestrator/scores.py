"""How a trial's student is scored. What selects (pruning, best epoch, export) sees only the score.

A score is any callable from a student and what is known of its epoch to a number, larger is better;
adding one is adding it here and to SCORES.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import nn


class Score(Protocol):
    """One way to choose among students."""

    @property
    def uses_real_labels(self) -> bool:
        """Whether it looks at the evaluation data, which is then an oracle."""
        ...

    def __call__(self, student: nn.Module, metrics: Mapping[str, float]) -> float:
        """The score of `student` after an epoch that measured `metrics`; larger is better."""
        ...


class AccuracyScore:
    """Accuracy on the task's labeled test images: the oracle of the published tables."""

    uses_real_labels = True

    def __call__(self, student: nn.Module, metrics: Mapping[str, float]) -> float:
        return metrics["accuracy"]


SCORES: dict[str, Score] = {"accuracy": AccuracyScore()}
