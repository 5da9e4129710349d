"""The network is cut while a sweep runs: between two nodes, and one from all, also for good."""

from __future__ import annotations

import json
import time

import pyarrow.parquet as pq
import pytest
from namespaces import network
from ray_sweeps import end, start_sweep, wait_until, write_task
from raylets import cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

EPOCHS = 40  # so that neither trial has ended when the other one is in its fifth
LONG = 200  # steps per epoch: seconds are left of a trial when its node is cut off
TRIALS = ("t000", "t001")
MOMENT = 1.5  # seconds: Ray bears eight without an answer here


@pytest.fixture(scope="module")
def machines(dfkd_cache):
    """A head without CPUs and two nodes of one CPU, each in a network of its own."""
    with network(3) as net, cluster(ip=net.ip(0), inside=net.inside(0)) as ray:
        ray.wait_for_head()
        for machine in (1, 2):
            ray.add(1, net.ip(machine), net.inside(machine))
        yield net, ray


def epochs(folder):
    """How many epochs of the trial that is behind are in its last checkpoint."""
    files = [folder / "runs" / "s" / "trials" / trial / "history.json" for trial in TRIALS]
    return min(len(json.loads(file.read_text())) if file.is_file() else 0 for file in files)


def test_a_sweep_bears_a_moment_without_network_and_the_loss_of_a_node(machines, tmp_path):
    net, ray = machines
    options = ("--trials", "2", "--scheduler", "fifo", "--no-control", "--json")
    task = write_task(tmp_path, EPOCHS, kd_steps=LONG)
    process = start_sweep(task, tmp_path, *options, "--address", ray.address, inside=net.inside(0))
    wait_until(lambda: process.poll() is not None or epochs(tmp_path) >= 2, 240)
    assert process.poll() is None, end(process)
    net.part((1, 2))  # for the pools that they keep for each other: each makes its own
    net.cut(1)
    time.sleep(MOMENT)
    net.join(1)
    wait_until(lambda: epochs(tmp_path) >= 5, 240)
    net.cut(1)
    status, printed, complained = end(process, 200)
    assert status == 0, complained
    events = [json.loads(line) for line in printed.splitlines()]
    lost = [event["text"] for event in events if "lost its worker" in event.get("text", "")]
    assert len(lost) == 1, "one cut cost a trial its worker, the other did not"
    rows = pq.read_table(tmp_path / "runs" / "s" / "results.parquet").to_pylist()
    for trial in TRIALS:
        assert [row["epoch"] for row in rows if row["trial"] == trial] == list(range(1, EPOCHS + 1))
    assert (tmp_path / "runs" / "s" / "best" / "model.safetensors").is_file()
