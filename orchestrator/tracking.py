"""`--track`: a sweep's rows to TensorBoard, MLflow or Weights & Biases, by Ray's own integrations.

Each trial is one run there, with its recipe as parameters and its rows as metrics, one per epoch.
Only the driver writes. Where nothing else is said, it writes below the run folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ray import tune

from dfkd.methods.errors import ConfigError, unknown
from dfkd.orchestrator.reporting import FAILED
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.storage import Folder

FOLDER = "tracking"  # in a local run folder
PACKAGES = {  # what each needs, and how that is installed
    "tensorboard": ("tensorboardX", "pip install tensorboardX"),
    "mlflow": ("mlflow", 'pip install "dfkd[mlflow]"'),
    "wandb": ("wandb", "pip install wandb"),
}
TRACKERS = tuple(PACKAGES)
MLFLOW_URI = "MLFLOW_TRACKING_URI"


def tracking_problems(names: Sequence[str], storage: str) -> list[str]:
    """What keeps a sweep in `storage` from being tracked so."""
    found = []
    for name in dict.fromkeys(names):
        if name not in TRACKERS:
            found.append(unknown("tracker", name, TRACKERS))
            continue
        package, install = PACKAGES[name]
        if find_spec(package) is None:
            found.append(f"--track {name} needs the package {package}; {install}")
    if Folder.of(storage).local is None:
        if "tensorboard" in names:
            found.append(
                f"--track tensorboard writes files, which it cannot in {storage}; choose a local "
                "--storage, or mlflow with a server"
            )
        if "mlflow" in names and not os.environ.get(MLFLOW_URI):
            found.append(f"--track mlflow with storage {storage} needs a server in {MLFLOW_URI}")
    return found


@dataclass(eq=False, slots=True)
class Tracked:
    """A trial as Ray's loggers look at one of Tune's."""

    trial_id: str
    config: dict[str, Any]
    experiment_dir_name: str
    """The sweep's name."""
    local_path: str
    """Where files about it may lie."""

    @property
    def evaluated_params(self) -> dict[str, Any]:
        return self.config

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.trial_id


class Tracker(tune.Callback):
    """Tells one of Ray's loggers of trials as dfkd knows them: recipes and rows, by epoch.

    A logger that fails is said to have, and told no more: no sweep ends for it.
    """

    def __init__(
        self,
        name: str,
        logger: Any,
        trial: Callable[[str], Tracked],
        say: Callable[[str], None],
    ) -> None:
        self._name = name
        self._logger = logger
        self._trial = trial
        self._say = say
        self._trials: dict[str, Tracked] = {}
        self._failed: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()  # into Tune's snapshot, which nobody reads

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        id = trial.config["id"]
        self._trials.setdefault(id, self._trial(id))
        self._tell("log_trial_start", self._trials[id])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        id = trial.config["id"]
        if FAILED in result:
            self._failed.add(id)
        elif "row" in result:
            row = result["row"]
            numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
            told = {**numbers, "training_iteration": row["epoch"]}
            self._tell("log_trial_result", iteration, self._trials[id], told)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial.config["id"], trial.config["id"] in self._failed)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial.config["id"], True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._tell("on_experiment_end", list(self._trials.values()))

    def _end(self, id: str, failed: bool) -> None:
        if id in self._trials:  # else it was lost before it started
            self._tell("log_trial_end", self._trials[id], failed)

    def _tell(self, what: str, *arguments: Any) -> None:
        if self._logger is None:
            return
        try:
            getattr(self._logger, what)(*arguments)
        except Exception as error:  # of whatever the tracker is made of
            self._logger = None
            self._say(f"--track {self._name} failed and ends here; the sweep goes on: {error}")


def trackers(
    names: Sequence[str],
    run: Run,
    records: Mapping[str, TrialRecord],
    scratch: str,
    say: Callable[[str], None],
) -> list[Tracker]:
    """A callback for each name; what is no run folder's matter may lie in `scratch`.

    Raises ConfigError where a tracker cannot start.
    """
    folder = run.folder.local
    root = Path(scratch) if folder is None else folder / FOLDER
    found = []
    for name in dict.fromkeys(names):
        try:
            logger = LOGGERS[name](run.name, root)
            logger.setup()
        except Exception as error:  # of whatever the tracker is made of
            raise ConfigError(f"--track {name} cannot start: {error}") from None

        def tracked(id: str, where: Path = root / name) -> Tracked:
            spec = records[id].spec
            config = {"method": spec.method, "student": spec.student, **spec.recipe}
            return Tracked(id, config, run.name, str(where / id))

        found.append(Tracker(name, logger, tracked, say))
    return found


def _tensorboard(sweep: str, root: Path) -> Any:
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


def _mlflow(sweep: str, root: Path) -> Any:
    """To $MLFLOW_TRACKING_URI, or an SQLite file: MLflow no longer likes folders as stores."""
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class RowByRow(MLflowLoggerCallback):
        """Sends a row whole: Ray's way, figure by figure, keeps the sweep waiting 20 times."""

        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            step, now = result.pop("training_iteration"), round(1000 * time.time())
            metrics = [Metric(key, value, now, step) for key, value in result.items()]
            client = MlflowClient(tracking_uri=self.tracking_uri)
            client.log_batch(self._trial_runs[trial], metrics=metrics)

    uri = os.environ.get(MLFLOW_URI)
    if not uri:
        root.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{root / 'mlflow.db'}"
    return RowByRow(tracking_uri=uri, experiment_name=sweep)


def _wandb(sweep: str, root: Path) -> Any:
    from ray.air.integrations.wandb import WandbLoggerCallback

    class InAFolder(WandbLoggerCallback):
        """Makes the folder that the process which writes will change to."""

        def log_trial_start(self, trial: Tracked) -> None:
            trial.init_local_path()
            super().log_trial_start(trial)

    return InAFolder(project=os.environ.get("WANDB_PROJECT", "dfkd"), group=sweep)


LOGGERS: dict[str, Callable[[str, Path], Any]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
