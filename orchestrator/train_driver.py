"""A trial of several workers: a Ray Train run inside its Ray Tune trial.

Tune holds a driver that takes next to nothing; the driver starts a TorchTrainer, whose workers
(train_worker.py) report through Tune. Two cures are built in, both measured on Ray 2.60
(docs/adr/0004, 0011): the trainer can be aborted, since a trial that Tune stops would otherwise
leave its placement group behind; and placement groups are called after the driver that made them,
so that the sweep can remove those of a driver that was lost (see Janitor).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from typing import Any, ClassVar

import ray
from ray import train, tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import worker_group
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.trainable.function_trainable import wrap_function
from ray.util import placement_group_table
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from dfkd.orchestrator.actors import Exchange, beside_me
from dfkd.orchestrator.train_worker import worker

DRIVER_TAKES = {"memory": 1}  # Tune refuses a trial that takes nothing; workers need whole CPUs
WORKER_RETRIES = 3  # of a whole group, when one of its workers is lost
SUPERFLUOUS = (PlacementGroupCleanerCallback, DatasetsCallback)
ABORT_TIMEOUT = 20.0
LOOK_AGAIN = 1.0  # seconds between looks at placement groups
WATCHED = 60.0  # seconds for what is under way to arrive, after a driver's loss


class NoCoordinator:
    """Stands in for Train's client of Ray's autoscaling coordinator, and spares its actor's start:
    an autoscaler sees the workers' placement group anyway.
    """

    def maybe_send_resource_request(self, *request: Any) -> None:
        return

    def cancel_resource_request(self) -> None:
        return


class OwnTrainer(TorchTrainer):
    """A TorchTrainer whose controller runs in the calling thread and can be aborted from another.

    Ray would start the controller as an actor: a process more, and four seconds of imports.
    Overrides private methods of Ray 2.60; tests cover it and pyproject.toml bounds the version.
    """

    running: ClassVar[OwnTrainer | None] = None
    """The one of this process, if any."""

    def _create_default_callbacks(self) -> list[Any]:
        """Without Ray's own cleaner: a process per trial, of use only beside a dashboard."""
        callbacks = super()._create_default_callbacks()
        return [c for c in callbacks if not isinstance(c, SUPERFLUOUS)]

    def _initialize_and_run_controller(self, **kwargs: Any) -> Any:
        kwargs["scaling_policy"].after_controller_start = lambda run_context: None
        kwargs["scaling_policy"]._coordinator_client = NoCoordinator()
        self._controller = TrainController(**kwargs)
        self._loop = asyncio.new_event_loop()
        self._control = self._loop.create_task(self._controller.run())
        self._ended = threading.Event()
        OwnTrainer.running = self
        try:
            self._loop.run_until_complete(self._control)
        finally:
            OwnTrainer.running = None
            self._ended.set()
        return self._controller.get_result()

    def abort(self) -> None:
        """From another thread: end the workers, return their placement group, make fit() raise."""

        def give_up() -> None:
            group = self._controller.get_worker_group()
            if group is not None:
                group.abort()
            self._control.cancel()

        self._loop.call_soon_threadsafe(give_up)
        self._ended.wait(ABORT_TIMEOUT)


def drive(config: dict[str, Any]) -> None:
    """The Tune trial: run the workers, pass their reports on."""
    worker_group.placement_group = functools.partial(_named_group, config["id"])
    exchange = beside_me(Exchange).remote(config["workers"])
    each = {"CPU": config["cpus"]} | ({"GPU": config["gpus"]} if config["gpus"] else {})
    trainer = OwnTrainer(
        worker,
        train_loop_config={**config, "exchange": exchange},
        torch_config=TorchConfig(backend="nccl" if config["gpus"] else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=config["workers"], resources_per_worker=each, use_gpu=bool(config["gpus"])
        ),
        run_config=train.RunConfig(
            name=f"{config['id']}-{time.time_ns()}",
            storage_path=config["scratch"],
            failure_config=train.FailureConfig(max_failures=WORKER_RETRIES),
            callbacks=[TuneReportCallback()],
        ),
    )
    trainer.fit()


def _named_group(trial: str, *bundles: Any, **options: Any) -> PlacementGroup:
    """A placement group called after this process's actor; Train gives its groups no name."""
    driver = ray.get_runtime_context().get_actor_id()
    return placement_group(*bundles, **options, name=f"{driver}/{trial}/{time.time_ns()}")


DriverBase: Any = wrap_function(drive)


class TrialDriver(DriverBase):
    """`drive`, with the cure for stopped trials: abort the trainer before letting go of it."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([DRIVER_TAKES])

    def cleanup(self) -> None:
        if OwnTrainer.running is not None:
            OwnTrainer.running.abort()
        with contextlib.suppress(Exception):  # fit(), in its thread, sees the abort as a failure
            super().cleanup()


class Janitor:
    """Removes the placement groups that lost drivers leave, and those of drivers ended too roughly.

    Ray keeps a placement group until its job ends, and reschedules it after the loss of a node: it
    then holds, for nobody, what the trial needs to start again.
    """

    def __init__(self) -> None:
        self._drivers: dict[str, str] = {}  # by trial
        self._watched: dict[str, tuple[float, float]] = {}  # drivers, and from when until when
        self._looked = -LOOK_AGAIN

    def started(self, trial: str, driver: str) -> None:
        """A trial is run by this driver, an actor's id."""
        self._drivers[trial] = driver

    def lost(self, trial: str) -> None:
        """Its driver is gone, and whatever was its is nobody's."""
        self._watch(trial, 0.0)

    def ended(self, trial: str) -> None:
        """Its driver returns its group by itself, if it is not waiting for one just now."""
        self._watch(trial, 2 * ABORT_TIMEOUT)

    def sweep(self) -> None:
        """Remove what is due; looks at most once a second."""
        now = time.monotonic()
        self._watched = {d: span for d, span in self._watched.items() if span[1] > now}
        if self._watched and now - self._looked > LOOK_AGAIN:
            self._looked = now
            self._remove({d for d, (start, _) in self._watched.items() if start <= now})

    def finish(self) -> None:
        """Remove what any driver left, when all of them have ended."""
        self._remove(set(self._watched) | set(self._drivers.values()))

    def _watch(self, trial: str, delay: float) -> None:
        driver = self._drivers.pop(trial, None)
        if driver is not None:
            start = time.monotonic() + delay
            self._watched[driver] = start, start + WATCHED

    def _remove(self, drivers: set[str]) -> None:
        if not drivers:
            return
        for id, group in placement_group_table().items():
            if group["state"] != "REMOVED" and group["name"].split("/")[0] in drivers:
                remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(id)))
