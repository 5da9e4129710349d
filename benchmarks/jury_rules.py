"""Rules that make one score per student of what pools said of it; larger is better.

The one that dfkd chooses by is `consensus`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dfkd.methods.consensus import LEAST, fit
from dfkd.orchestrator.verdicts import ranks as ranks_of

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """Students, each judged by each pool but its own."""

    divergence: Matrix
    """KL(teacher || student) [students, pools], NaN on one's own pool."""
    agreement: Matrix
    own: Matrix
    """Agreement on one's own pool [students], NaN where that is degenerate."""
    families: Sequence[str]
    """The method that made each pool."""
    owners: Sequence[int | None]
    """Whose each pool is: its student's number; None for the control pools."""

    @property
    def logs(self) -> Matrix:
        return np.asarray(np.log(self.divergence + LEAST))

    def sweep(self, students: Sequence[int]) -> Judged:
        """As if these had been a sweep alone: judged by its own and the control pools."""
        there = {None, *students}
        pools = [pool for pool, owner in enumerate(self.owners) if owner in there]
        return replace(
            self,
            divergence=self.divergence[np.ix_(students, pools)],
            agreement=self.agreement[np.ix_(students, pools)],
            own=self.own[list(students)],
            families=[self.families[pool] for pool in pools],
            owners=[self.owners[pool] for pool in pools],
        )


def consensus(judged: Judged) -> Matrix:
    """One factor with a slope and a variance per pool, both shrunk; each method one vote."""
    return -fit(judged.divergence, judged.families).divergences


def consensus_of_pools(judged: Judged) -> Matrix:
    return -fit(judged.divergence).divergences


def mean_divergence(judged: Judged) -> Matrix:
    return -np.nanmean(judged.divergence, axis=1)


def mean_agreement(judged: Judged) -> Matrix:
    return np.asarray(np.nanmean(judged.agreement, axis=1))


def log_divergence(judged: Judged) -> Matrix:
    """Geometric mean: no pool outweighs the others because its divergences are large."""
    return -np.nanmean(judged.logs, axis=1)


def trimmed(judged: Judged, share: float = 0.1) -> Matrix:
    """Without each student's worst tenth of the pools."""
    ordered = np.sort(judged.divergence, axis=1)  # NaN last
    known = np.isfinite(ordered).sum(1)
    kept = np.arange(ordered.shape[1]) < np.ceil(known * (1 - share))[:, None]
    return -np.nanmean(np.where(kept, ordered, np.nan), axis=1)


def median(judged: Judged) -> Matrix:
    return -np.nanmedian(judged.divergence, axis=1)


def families(judged: Judged, across: Callable[..., Matrix] = np.nanmean) -> Matrix:
    """Each method one vote, however many pools it has."""
    names = np.array(judged.families)
    votes = [mean_of_known(judged.divergence[:, names == name]) for name in sorted(set(names))]
    return -across(np.stack(votes, 1), axis=1)


def mean_of_known(values: Matrix) -> Matrix:
    """Of each row; NaN of a row without any, as of a student by its method's only pool."""
    known = np.isfinite(values).sum(1)
    return np.where(known > 0, np.nansum(values, 1) / known.clip(1), np.nan)


def median_of_families(judged: Judged) -> Matrix:
    return families(judged, np.nanmedian)


def ranks(judged: Judged) -> Matrix:
    """Mean of the rank within each pool, as a share of the students that it judged."""
    votes = np.full(judged.divergence.shape, np.nan)
    for column in range(votes.shape[1]):
        known = np.isfinite(judged.divergence[:, column])
        votes[known, column] = ranks_of(list(judged.divergence[known, column])) / known.sum()
    return -np.nanmean(votes, axis=1)


def additive(judged: Judged, weighted: bool = False) -> Matrix:
    """Student plus pool, in logarithms; weighted by how well each pool fits, iteratively."""
    logs = judged.logs
    weights = np.ones(logs.shape[1])
    students = np.zeros(len(logs))
    for _ in range(30):
        residuals = logs - students[:, None]
        pools = np.nanmean(residuals, axis=0)
        if weighted:
            variances = np.nanmean((residuals - pools) ** 2, axis=0)
            weights = 1 / (variances + np.median(variances) + LEAST)
        students = np.nansum(weights * (logs - pools), 1) / (weights * np.isfinite(logs)).sum(1)
    return -students


def weighted_additive(judged: Judged) -> Matrix:
    return additive(judged, weighted=True)


def first_factor(judged: Judged) -> Matrix:
    """Of the log divergences, the pools' means taken off, gaps filled by iteration."""
    logs = judged.logs
    gaps = np.isnan(logs)
    filled = np.where(gaps, np.nanmean(logs, axis=0), logs)
    for _ in range(20):
        centered = filled - filled.mean(0)
        u, s, v = np.linalg.svd(centered, full_matrices=False)
        filled = np.where(gaps, filled.mean(0) + s[0] * np.outer(u[:, 0], v[0]), logs)
    return -u[:, 0] * s[0] * np.sign(v[0].sum())


def lower_bound(judged: Judged) -> Matrix:
    """Minus two standard errors between pools, of the geometric mean."""
    logs = judged.logs
    errors = np.nanstd(logs, axis=1) / np.sqrt(np.isfinite(logs).sum(1))
    return -np.nanmean(logs, axis=1) - 2 * errors


def most_often_best(judged: Judged) -> Matrix:
    """In juries drawn from the pools with replacement; the consensus decides between equals."""
    distances = fit(judged.divergence, judged.families).resampled(200)
    wins = np.bincount(distances.argmin(1), minlength=distances.shape[1])
    return np.asarray(wins + np.exp(consensus(judged)) / 2)


def control_pools(judged: Judged, logs: bool = False) -> Matrix:
    """What students are judged by while trials run."""
    columns = [pool for pool, owner in enumerate(judged.owners) if owner is None]
    return -np.nanmean((judged.logs if logs else judged.divergence)[:, columns], axis=1)


def log_of_control_pools(judged: Judged) -> Matrix:
    return control_pools(judged, logs=True)


def own_agreement(judged: Judged) -> Matrix:
    return judged.own


RULES: dict[str, Callable[[Judged], Matrix]] = {
    "**consensus** (chooses)": consensus,
    "consensus, each pool one vote": consensus_of_pools,
    "mean KL, each pool one vote": mean_divergence,
    "mean agreement": mean_agreement,
    "mean log KL": log_divergence,
    "trimmed mean KL": trimmed,
    "median KL": median,
    "mean KL, each method one vote": families,
    "median of the methods' mean KL": median_of_families,
    "mean rank": ranks,
    "student + pool, log KL": additive,
    "student + pool, log KL, weighted": weighted_additive,
    "first factor of log KL": first_factor,
    "mean log KL, lower bound": lower_bound,
    "most often best in resampled juries": most_often_best,
    "mean KL on the control pools (epochs)": control_pools,
    "mean log KL on the control pools": log_of_control_pools,
    "agreement on one's own pool": own_agreement,
}
