"""A one-worker trial as a Ray Tune trainable: it runs in its Tune actor, which trials reuse."""

from __future__ import annotations

from typing import Any

import torch
from ray import tune

from dfkd.methods.errors import DfkdError
from dfkd.orchestrator.links import connect
from dfkd.orchestrator.patience import StorageFailed
from dfkd.orchestrator.quick_start import spare_the_compiler, stay_where_we_are
from dfkd.orchestrator.reporting import failure, report
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.trials import Row, Surroundings, Trial


class TrialActor(tune.Trainable):
    """Runs the trial whose id and run folder its configuration names, one epoch per step.

    Tune keeps no checkpoint of it: the trial's own folder is where it resumes from, after a lost
    actor just as after a lost driver.
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        gpus = {"GPU": config["gpus"]} if config["gpus"] else {}
        return tune.PlacementGroupFactory([{"CPU": config["cpus"], **gpus}])

    def __init__(self, *arguments: Any, **named: Any) -> None:
        stay_where_we_are()
        super().__init__(*arguments, **named)

    def setup(self, config: dict[str, Any]) -> None:
        spare_the_compiler()
        torch.set_num_threads(max(1, int(config["cpus"])))
        self._run = Run.of(config["run"])
        self._surroundings: Surroundings = self._run.surroundings()
        self._begin(config)

    def reset_config(self, config: dict[str, Any]) -> bool:
        self._begin(config)
        return True

    def step(self) -> Row:
        if isinstance(self._trial, DfkdError):
            return failure(self._trial)
        if self._trial.finished:  # resumed after its last epoch, before the driver knew
            return report(self._trial.history[-1], done=True)
        try:
            row = self._trial.step()
        except StorageFailed:  # Tune starts the trial again, from its last checkpoint
            raise
        except DfkdError as error:
            return failure(error)
        return report(row, done=self._trial.finished)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return

    def load_checkpoint(self, checkpoint: Any) -> None:
        return

    def _begin(self, config: dict[str, Any]) -> None:
        id = config["id"]
        self._trial: Trial | DfkdError
        try:
            spec = self._run.trial_spec(id)
            links = connect(self._run, spec, self._surroundings, config["pools"], None)
            folder = self._run.trial_folder(id)
            self._trial = Trial(
                spec, self._surroundings, folder, device=device(config), links=links
            )
        except StorageFailed:
            raise
        except DfkdError as error:
            self._trial = error


def device(config: dict[str, Any]) -> torch.device:
    """Where this worker computes."""
    return torch.device("cuda" if config["gpus"] and torch.cuda.is_available() else "cpu")
