"""How a trial's student is scored. What selects (pruning, best epoch, export) sees only the score.

A score is any callable from a trial's rows so far to a number, larger is better; adding one is
adding it here and to SCORES.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from dfkd.orchestrator.robustness import LEARNED

SMOOTHED = 5  # epochs that fidelity is averaged over


class Score(Protocol):
    """One way to choose among students."""

    @property
    def uses_real_labels(self) -> bool:
        """Whether it looks at the evaluation data, which is then an oracle."""
        ...

    def show(self, value: float) -> str:
        """A score for people."""
        ...

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """The score after the last of a trial's `rows`, one per epoch; larger is better."""
        ...


class AccuracyScore:
    """Accuracy on the task's labeled test images: the oracle of the published tables."""

    uses_real_labels = True

    def show(self, value: float) -> str:
        return f"{100 * value:.2f} %"

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> float:
        return float(rows[-1]["accuracy"])


class FidelityScore:
    """The jury's fidelity, averaged over the last epochs in which the student learned.

    One epoch's figure jumps about, and the highest of many is luck.
    """

    uses_real_labels = False

    def show(self, value: float) -> str:
        return f"{value:.4f}"

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> float:
        learned = [row for row in rows if row.get(LEARNED) is not None] or rows[-1:]
        return statistics.fmean(row["fidelity"] for row in learned[-SMOOTHED:])


def merit(row: Mapping[str, Any]) -> tuple[bool, float, int]:
    """What the best epoch of a trial has most of: the highest score, the latest of equals.

    An epoch in which the student learned goes before all of the warm-up, whose student is as it was
    initialized: chance answers alike everywhere, and may be nearer to a teacher than a beginner.
    """
    return row.get(LEARNED) is not None, row["score"], row["epoch"]


SCORES: dict[str, Score] = {"fidelity": FidelityScore(), "accuracy": AccuracyScore()}
