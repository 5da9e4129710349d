"""Trials of two Ray Train workers: they finish, can be stopped, and give back what they took."""

from __future__ import annotations

import io
import json

import pytest
from ray_sweeps import end, kill_one, local_ray, start_sweep, wait_until, write_task
from rich.console import Console

from dfkd.orchestrator.board import Board

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def own_ray(dfkd_cache):
    """A Ray of two CPUs without a dashboard, in this process, as a notebook would have it."""
    with local_ray(2) as ray:
        yield ray


@pytest.mark.timeout(300)
def test_asha_over_trials_of_two_workers_gives_every_resource_back(own_ray, tmp_path):
    from dfkd.orchestrator import sweep

    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    result = sweep(
        write_task(tmp_path, epochs=40, kd_steps=20),
        trials=3,
        workers=2,
        cpus_per_worker=0.9,
        control=False,
        storage=str(tmp_path),
        watcher=Board(terminal),
    )
    outcomes = [record.outcome for record in result.records]
    assert sorted(set(outcomes)) == ["finished", "stopped"], "without a stop nothing was tested"
    assert "t002" in terminal.file.getvalue()
    total = own_ray.cluster_resources()["CPU"]
    wait_until(lambda: own_ray.available_resources().get("CPU") == total, 30)
    groups = own_ray.util.placement_group_table().values()
    assert {group["state"] for group in groups} == {"REMOVED"}


@pytest.mark.timeout(300)
def test_a_lost_train_worker_costs_no_epoch(tmp_path, dfkd_cache):
    task = write_task(tmp_path, epochs=40, kd_steps=20)
    options = ("--trials", "1", "--workers", "2", "--cpus-per-worker", "0.9", "--no-control")
    process = start_sweep(task, tmp_path, *options)
    folder = tmp_path / "runs" / "s" / "trials" / "t000"
    wait_until((folder / "checkpoint.pt").is_file)
    kill_one(process.pid, "ray::RayTrainWorker")
    status, _, complained = end(process, 200)
    assert status == 0, complained
    rows = json.loads((folder / "result.json").read_text())["rows"]
    assert [row["epoch"] for row in rows] == list(range(1, 41))
