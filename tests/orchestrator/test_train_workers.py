"""Trials of two Ray Train workers: they finish, can be stopped, and give back what they took."""

from __future__ import annotations

import io
import os

import pytest
from ray_sweeps import Listener, kill_one, local_ray, wait_until, write_task
from rich.console import Console

from dfkd.orchestrator.board import Board

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

EPOCHS = 12


@pytest.fixture(scope="module")
def own_ray(dfkd_cache):
    """A Ray of two CPUs without a dashboard, in this process, as a notebook would have it."""
    with local_ray(2) as ray:
        yield ray


class HurtfulBoard(Board):
    """The leaderboard, as a terminal shows it; a worker of the first trial dies at epoch 3."""

    def __init__(self, terminal):
        super().__init__(terminal)
        self.listener = Listener(3, lambda: kill_one(os.getpid(), "ray::RayTrainWorker"))

    def epoch_ended(self, spec, row):
        super().epoch_ended(spec, row)
        self.listener.epoch_ended(spec, row)


@pytest.fixture(scope="module")
def swept(own_ray, tmp_path_factory):
    """Two trials, one after the other, by ASHA; and what was seen of them."""
    from dfkd.orchestrator import sweep

    folder = tmp_path_factory.mktemp("swept")
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    result = sweep(
        write_task(folder, EPOCHS, kd_steps=10),
        trials=2,
        workers=2,
        cpus_per_worker=1.0,  # all there are
        control=False,
        storage=str(folder),
        watcher=HurtfulBoard(terminal),
    )
    return result, terminal.file.getvalue()


def test_asha_over_trials_of_two_workers_gives_every_resource_back(own_ray, swept):
    result, shown = swept
    outcomes = [record.outcome for record in result.records]
    assert outcomes == ["finished", "stopped"], "without a stop nothing was tested"
    assert "t001" in shown
    total = own_ray.cluster_resources()["CPU"]
    wait_until(lambda: own_ray.available_resources().get("CPU") == total, 30)
    groups = own_ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} == {"REMOVED"}


def test_a_lost_train_worker_costs_no_epoch(swept):
    rows = swept[0].records[0].rows
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))


class HeldUp(Listener):
    """Kills a trial's driver as soon as it has a placement group, before its workers are up."""

    def __init__(self):
        super().__init__()
        self.groups = []

    def tick(self):
        from ray.util import placement_group_table

        groups = placement_group_table().values()
        found = [g["name"] for g in groups if "/" in g["name"] and g["state"] != "REMOVED"]
        if found and not self.groups:
            self.groups = found
            kill_one(os.getpid(), "ray::TrialDriver")


def test_a_driver_lost_before_its_workers_are_up_leaves_no_placement_group(own_ray, tmp_path):
    from dfkd.orchestrator import sweep

    listener = HeldUp()
    result = sweep(
        write_task(tmp_path, 2),
        trials=1,
        workers=2,
        cpus_per_worker=1.0,  # all there are
        select="accuracy",
        control=False,
        storage=str(tmp_path),
        watcher=listener,
    )
    assert listener.groups, "no driver was killed, so nothing was tested"
    assert [record.outcome for record in result.records] == ["finished"]
    groups = own_ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} == {"REMOVED"}
