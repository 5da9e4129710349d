"""How steady a student was while it learned: figures over all epochs of a trial, not its best one.

Choosing the epoch with the highest accuracy takes labeled images, which a user without data has
not; the mean over epochs and the mean of the last few need no such choice.

Sources: mean and variance over epochs, PRE-DFKD (Binici et al., AAAI 2022, arXiv 2201.03019); the
mean of the last epochs beside the best one, TA-DFKD.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LAST = 5
LEARNED = "kd_loss"  # a row has it if the student learned in that epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """A measure over the epochs in which the student learned, in its own unit (fractions)."""

    epochs: int
    """How many epochs these are: fewer than planned if the trial was stopped or interrupted."""
    mean: float
    """mu[S_acc]"""
    variance: float
    """sigma^2[S_acc]: of the population, so divided by `epochs`; in squared fractions."""
    best: float
    """acc_max: an oracle's figure, as is `gap`."""
    last: float
    last_mean: float
    """Over the last `last_epochs` epochs."""
    last_epochs: int
    """As many as were asked for, or all where there are fewer."""
    gap: float
    """`best` - `last`"""

    @property
    def deviation(self) -> float:
        """The standard deviation over epochs."""
        return math.sqrt(self.variance)


def robustness(
    history: Sequence[Mapping[str, Any]], *, last: int = LAST, key: str = "accuracy"
) -> Robustness | None:
    """The figures of `key` over a trial's rows, in the order of their epochs.

    Epochs of warm-up, in which the student does not learn, do not count. None where no epoch that
    counts has measured `key`.
    """
    if last < 1:
        raise ValueError(f"last is {last}; it must be at least 1 epoch")
    learned = [row for row in history if row.get(LEARNED) is not None]  # parquet's rows hold None
    values = [float(row[key]) for row in learned if row.get(key) is not None]
    if not values:
        return None
    tail = values[-last:]
    return Robustness(
        epochs=len(values),
        mean=statistics.mean(values),  # exact before rounding, so never above the best
        variance=statistics.pvariance(values),
        best=max(values),
        last=values[-1],
        last_mean=statistics.mean(tail),
        last_epochs=len(tail),
        gap=max(values) - values[-1],
    )


def as_json(found: Robustness | None) -> dict[str, Any] | None:
    """The figures as JSON values."""
    return None if found is None else asdict(found)
