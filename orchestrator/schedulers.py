"""Which trials to stop early: Ray Tune's schedulers, made to survive an interruption.

Tune keeps a scheduler's state in snapshots up to ten seconds old. Here the state is rebuilt instead
from the trials' recorded epochs, by reporting them again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ray.tune.experiment.trial import Trial as TuneTrial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from dfkd.orchestrator.specs import CONTROL_ID
from dfkd.orchestrator.trials import Row

SCHEDULERS = ("asha", "median", "fifo")
REDUCTION = 3  # of the trials that reach a rung, one in this many goes on
FIRST_RUNG = 0.3  # share of the epochs before anything is stopped


def make_scheduler(
    name: str,
    epochs: int,
    past: Mapping[str, Sequence[Row]] | None = None,
    going_on: Collection[str] = (),
) -> TrialScheduler:
    """A scheduler on `epoch` and `score`.

    `past` holds the rows of trials known from before; those in `going_on` will be run on by Tune,
    which introduces them itself.
    """
    grace = max(1, round(epochs * FIRST_RUNG))
    common: dict[str, Any] = {"time_attr": "epoch", "metric": "score", "mode": "max"}
    if name == "asha":
        asha = {"max_t": epochs + 1, "reduction_factor": REDUCTION}
        scheduler = _Asha(grace_period=grace, **asha, **common)
    elif name == "median":
        # An infinite time slice: trials are stopped or go on, never paused.
        median = {"min_time_slice": float("inf"), "min_samples_required": 3}
        scheduler = _Median(grace_period=grace, **median, **common)
    else:
        return FIFOScheduler()
    scheduler.past = dict(past or {})
    for id, rows in scheduler.past.items():
        if id not in going_on and rows:
            scheduler.on_trial_add(None, TuneTrial("dfkd", config={"id": id}, stub=True))
    return scheduler


class _Remembering(TrialScheduler):
    """Leaves the control alone, and tells its past of a trial before its future."""

    past: Mapping[str, Sequence[Row]] = {}

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        super().on_trial_add(tune_controller, trial)
        if trial.config["id"] != CONTROL_ID:
            for row in self.past.get(trial.config["id"], ()):
                self.recall(tune_controller, trial, row)

    def recall(self, tune_controller: Any, trial: TuneTrial, row: Row) -> None:
        """Take in an epoch of the past, whose decision has been made."""
        raise AssertionError("each scheduler has its own way")

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: Row) -> str:
        if trial.config["id"] == CONTROL_ID:
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: Row) -> None:
        if trial.config["id"] != CONTROL_ID and "score" in result:
            super().on_trial_complete(tune_controller, trial, result)


class _Asha(_Remembering, AsyncHyperBandScheduler):
    def recall(self, tune_controller: Any, trial: TuneTrial, row: Row) -> None:
        self.on_trial_result(tune_controller, trial, row)  # fills the rungs


class _Median(_Remembering, MedianStoppingRule):
    def recall(self, tune_controller: Any, trial: TuneTrial, row: Row) -> None:
        self.on_trial_complete(tune_controller, trial, row)  # notes the row and decides nothing
