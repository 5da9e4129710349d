"""One Ray Train worker of a trial. Imports no Tune, so that it starts sooner."""

from __future__ import annotations

from typing import Any

import ray
import torch
from ray import train
from ray.train.torch import get_device

from dfkd.methods.errors import DfkdError
from dfkd.orchestrator.exchange import TrainTeam
from dfkd.orchestrator.links import connect
from dfkd.orchestrator.patience import StorageFailed
from dfkd.orchestrator.quick_start import spare_the_compiler
from dfkd.orchestrator.reporting import failure, report
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.trials import Trial

BUGS = (AttributeError, ImportError, LookupError, NameError, TypeError, ValueError)
"""Errors that come again when the workers are started again; a lost peer's are RuntimeErrors."""


def worker(config: dict[str, Any]) -> None:
    """The trial's epochs, with its team, from its folder's last checkpoint.

    A trial that cannot go on says why to the exchange: the group of workers ends, is started once
    more by Ray Train, finds the reason, and reports it.
    """
    spare_the_compiler()
    torch.set_num_threads(max(1, int(config["cpus"])))
    exchange = config["exchange"]
    if (reason := ray.get(exchange.failure.remote())) is not None:
        train.report(failure(reason))
        return
    context, device = train.get_context(), get_device()
    team = TrainTeam(context.get_world_rank(), context.get_world_size(), exchange, device)
    run = Run.of(config["run"])
    try:
        spec, around = run.trial_spec(config["id"]), run.surroundings()
        links = connect(run, spec, around, config["pools"], team)
        trial = Trial(spec, around, run.trial_folder(spec.id), device=device, links=links)
        if trial.finished:
            train.report(report(trial.history[-1], done=True))
        while not trial.finished:
            row = trial.step()
            train.report(report(row, done=trial.finished))
    except StorageFailed:  # Ray Train starts the workers again
        raise
    except DfkdError as error:
        ray.get(exchange.fail.remote(str(error)))
        raise
    except BUGS as error:
        ray.get(exchange.fail.remote(f"{type(error).__name__}: {error}"))
        raise
