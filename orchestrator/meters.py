"""The way to a process that measures (measuring.py): started early, since it takes its time."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from typing import Any

from dfkd.methods.effort import Effort
from dfkd.methods.errors import DfkdError
from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.estimates import Measured, Point, Sample
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.specs import SweepSpec, TrialSpec
from dfkd.orchestrator.storage import Folder

PATIENCE = 60.0  # seconds to start, and beyond three times what a measurement should take


class NotMeasured(DfkdError):
    """Why nothing could be measured."""


class Meter:
    """A process of its own that measures trials; ends with the block.

    It does without what this process has in memory, as a trial will, and may be killed for want of
    memory without harm.
    """

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "dfkd.orchestrator.measuring"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *reason: object) -> None:
        self._child.kill()
        self._child.communicate()

    def measure(
        self, sweep: SweepSpec, trial: TrialSpec, need: Resources, seconds: float, memory: int
    ) -> Measured:
        """What a few steps of the trial take; raises NotMeasured with the reason."""
        with tempfile.TemporaryDirectory(prefix="dfkd-plan-") as folder:
            run = Run(Folder(folder))
            run.create(sweep)
            run.propose(trial)
            order = {
                "folder": folder,
                "trial": trial.id,
                "gpus": need.gpus_per_worker,
                "threads": max(1, int(need.cpus_per_worker)),
                "workers": need.workers,
                "seconds": seconds,
                "memory": memory,
            }
            answer = self._ask(json.dumps(order), 3 * seconds + PATIENCE)
        if "failed" in answer:
            raise NotMeasured(answer["failed"])
        return measured_from_json(answer)

    def _ask(self, order: str, patience: float) -> dict[str, Any]:
        questions, answers = self._child.stdin, self._child.stdout
        assert questions is not None and answers is not None, "both are pipes"
        try:
            print(order, file=questions, flush=True)
        except BrokenPipeError:
            raise NotMeasured("the process that measures ended at once") from None
        if not select.select([answers], [], [], patience)[0]:
            raise NotMeasured(f"the process that measures did not answer within {patience:.0f} s")
        line = answers.readline()
        if not line:
            raise NotMeasured("the process that measures ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        return answer


def measure_apart(
    sweep: SweepSpec, trial: TrialSpec, need: Resources, seconds: float, memory: int
) -> Measured | str:
    """As a Meter does, in one call; the reason instead of an error. For a worker of a cluster."""
    try:
        with Meter() as meter:
            return meter.measure(sweep, trial, need, seconds, memory)
    except NotMeasured as error:
        return str(error)


def measured_from_json(tree: dict[str, Any]) -> Measured:
    """Read back what `asdict` gave and JSON carried."""
    return Measured(**{**tree, "points": tuple(_point(point) for point in tree["points"])})


def _point(tree: dict[str, Any]) -> Point:
    samples = {key: tuple(map(_sample, tree[key])) for key in ("warmup", "learning")}
    return Point(**{**tree, **samples})


def _sample(tree: dict[str, Any]) -> Sample:
    return Sample(**{**tree, "effort": Effort(**tree["effort"])})
