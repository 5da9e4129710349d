"""Consensus: what many pools say together of how far many students are from their teacher.

Factor analysis with one factor. The logarithm of student i's divergence on pool j is

    level_j + slope_j * distance_i + noise of variance_j

so a pool weighs slope_j / variance_j: as much as it tells students apart, and in the way the others
do. In logarithms, since a pool on which all divergences are large would outvote the others in a
mean. Slopes are shrunk to 1 and variances to the pools' median, so that of few students all pools
are heard nearly alike. The pools of one maker share one vote: they are biased alike, and would
otherwise agree among themselves that its students are best. No student is judged by its own pool:
that gap makes it neither better nor worse, whatever the pool's level.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

SLOPE_VARIANCE = 0.1  # of slopes about 1, before any student is seen
LEAST_SLOPE = 0.1  # no pool votes backwards
MEDIAN_COUNTS = 20  # students, for which the pools' median variance counts in each pool's own
ROUNDS = 20  # of alternating least squares
LEAST = 1e-6  # nats, and variance: a perfect student has a logarithm too
WORST = 1e3  # nats: of a student whose answers are no numbers


@dataclass(frozen=True, slots=True)
class Consensus:
    """The model, fitted to students on pools."""

    logs: Matrix
    """Logarithms of the divergences [students, pools], 0 where unknown."""
    known: Matrix
    """1 where a student was judged by a pool, else 0."""
    shares: Matrix
    """Of each pool in the vote of its maker [pools]."""
    levels: Matrix
    slopes: Matrix
    """[pools], 1 on average."""
    variances: Matrix

    @property
    def weights(self) -> Matrix:
        """Each pool's share of the votes."""
        votes = self.shares * self.slopes / self.variances
        return np.asarray(votes / votes.sum())

    @property
    def divergences(self) -> Matrix:
        """Each student's, in nats, on the typical pool: a weighted geometric mean."""
        (distances,) = self.distances(np.ones((1, len(self.levels))))
        return np.asarray(np.exp(self.levels.mean() + distances))

    def distances(self, counts: Matrix) -> Matrix:
        """Of each student [juries, students], by juries [juries, pools] of so many of each pool.

        Infinite for a student whom none of a jury's pools has judged.
        """
        votes = counts * self.shares * self.slopes / self.variances
        said = votes @ (self.known * (self.logs - self.levels)).T
        full = votes @ (self.known * self.slopes).T
        return np.where(full > 0, said / np.where(full > 0, full, 1), np.inf)

    def resampled(self, juries: int = 1000) -> Matrix:
        """Distances by juries [juries, students] drawn from the pools with replacement."""
        pools = len(self.levels)
        counts = np.random.default_rng(0).multinomial(pools, np.full(pools, 1 / pools), juries)
        return self.distances(counts.astype(float))


def fit(divergences: Matrix, makers: Sequence[str] | None = None) -> Consensus:
    """The model of divergences [students, pools] in nats, NaN where unknown.

    `makers` says who made each pool; without, each has a maker of its own.
    """
    known = np.isfinite(divergences).astype(float)
    logs = np.where(known, np.log(np.where(known, divergences, 1).clip(0) + LEAST), 0.0)
    students, pools = logs.shape
    count = known.sum(0)
    many = Counter(makers or ())
    shares = np.array([1 / many[maker] for maker in makers]) if makers else np.ones(pools)
    found = Consensus(logs, known, shares, np.zeros(pools), np.ones(pools), np.ones(pools))
    distances = np.zeros((students, 1))
    for _ in range(ROUNDS):
        levels = (known * (logs - distances * found.slopes)).sum(0) / count
        found = replace(found, levels=levels)
        distances = found.distances(np.ones((1, pools))).T
        distances -= distances.mean()
        squares = (known * (logs - levels - distances * found.slopes) ** 2).sum(0)
        typical = np.median(squares / count)
        variances = (squares + MEDIAN_COUNTS * typical) / (count + MEDIAN_COUNTS) + LEAST
        along = (known * distances * (logs - levels)).sum(0) / variances
        scale = (known * distances**2).sum(0) / variances
        slopes = (along + 1 / SLOPE_VARIANCE) / (scale + 1 / SLOPE_VARIANCE)
        slopes = slopes.clip(LEAST_SLOPE)
        found = replace(found, slopes=slopes / slopes.mean(), variances=variances)
    return replace(found, levels=(known * (logs - distances * found.slopes)).sum(0) / count)


def consensus(
    divergences: Mapping[str, Mapping[str, float]], makers: Mapping[str, str]
) -> Consensus:
    """The model of each student's divergences by pool; not every pool judged every student.

    A pool that `makers` does not name has a maker of its own. What is no number was judged, and is
    the worst there is.
    """
    pools = sorted({pool for by_pool in divergences.values() for pool in by_pool})
    rows = np.array(
        [
            [_bounded(by_pool[pool]) if pool in by_pool else np.nan for pool in pools]
            for by_pool in divergences.values()
        ]
    )
    return fit(rows, [makers.get(pool, pool) for pool in pools])


def _bounded(divergence: float) -> float:
    return divergence if divergence < WORST else WORST
