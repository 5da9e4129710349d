"""Sweeps whose processes are killed: nothing that was finished is lost, done twice or left out."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pyarrow.parquet as pq
import pytest
from ray_sweeps import (
    Listener,
    end,
    kill_one,
    local_ray,
    start_sweep,
    sweep_here,
    wait_until,
    write_task,
)
from raylets import cluster

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

EPOCHS = 12
LONG = 200  # steps per epoch: seconds are left of a trial when it is hurt in its third epoch
TRIALS = ("control", "t000", "t001")
OPTIONS = ("--trials", "2", "--scheduler", "fifo", "--json")
ALONE = ("--concurrent", "1", "--select", "accuracy")  # one actor, and no jury


@pytest.fixture(scope="module")
def own_ray(dfkd_cache):
    """A Ray of two CPUs in this process, for what is resumed."""
    with local_ray(2) as ray:
        yield ray


def history(folder, trial):
    """The rows of a trial's last checkpoint."""
    file = folder / "runs" / "s" / "trials" / trial / "history.json"
    return json.loads(file.read_text()) if file.is_file() else []


def assert_complete(folder):
    rows = pq.read_table(folder / "runs" / "s" / "results.parquet").to_pylist()
    epochs = {trial: [row["epoch"] for row in rows if row["trial"] == trial] for trial in TRIALS}
    assert epochs == {trial: list(range(1, EPOCHS + 1)) for trial in TRIALS}
    return rows


def test_a_sweep_whose_driver_was_killed_goes_on_where_it_was(own_ray, tmp_path):
    task = write_task(tmp_path, EPOCHS, kd_steps=LONG)
    first = start_sweep(task, tmp_path, *OPTIONS, "--concurrent", "2")
    wait_until(lambda: len(history(tmp_path, "t000")) >= 3)
    time.sleep(random.Random(0).uniform(0, 0.3))
    first.kill()
    first.communicate()
    saved = {trial: history(tmp_path, trial) for trial in TRIALS}
    assert 3 <= len(saved["t000"]) < EPOCHS, "it was not killed in the middle"
    status, _, complained = sweep_here(task, tmp_path, *OPTIONS)
    assert status == 0, complained
    rows = assert_complete(tmp_path)
    # A row that was saved was not measured again: even its timings are those of the first run.
    kept = {(row["trial"], row["epoch"]): row["seconds"] for row in rows}
    for trial, past in saved.items():
        assert [kept[trial, row["epoch"]] for row in past] == [row["seconds"] for row in past]


def test_the_same_command_goes_on_with_another_cluster_after_the_head_was_lost(
    own_ray, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")  # by default a minute
    task = write_task(tmp_path, EPOCHS, kd_steps=LONG)
    with cluster(cpus=1) as ray:
        ray.wait_for_head()
        first = start_sweep(task, tmp_path, *OPTIONS, *ALONE, "--address", ray.address)
        wait_until(lambda: first.poll() is not None or len(history(tmp_path, "t000")) >= 3)
        assert first.poll() is None, end(first)
        ray.head.kill()
        status, printed, _ = end(first, 60)
    assert status == 1
    assert all(json.loads(line) for line in printed.splitlines())
    saved = history(tmp_path, "t000")
    assert 3 <= len(saved) < EPOCHS, "it was not lost in the middle"
    status, _, complained = sweep_here(task, tmp_path, *OPTIONS, *ALONE)
    assert status == 0, complained
    rows = assert_complete(tmp_path)
    kept = {row["epoch"]: row["seconds"] for row in rows if row["trial"] == "t000"}
    assert [kept[row["epoch"]] for row in saved] == [row["seconds"] for row in saved]


def test_a_trial_whose_actor_was_killed_goes_on_where_it_was(own_ray, tmp_path):
    from dfkd.orchestrator import sweep

    listener = Listener(EPOCHS + 3, lambda: kill_one(os.getpid(), "ray::TrialActor"))
    sweep(
        write_task(tmp_path, EPOCHS, kd_steps=10),
        trials=2,
        concurrent=1,
        scheduler="fifo",
        select="accuracy",
        storage=str(tmp_path / "runs"),
        name="s",
        watcher=listener,
    )
    assert any("lost its worker" in text for text in listener.said)
    assert_complete(tmp_path)


class Untimely(Listener):
    """Kills the actor of a trial that has just ended, which would have run the next one."""

    def trial_ended(self, record):
        if record.spec.id == "t000":
            kill_one(os.getpid(), "ray::TrialActor")


def test_a_trial_that_was_to_begin_on_an_actor_that_is_lost_begins_on_another(own_ray, tmp_path):
    from dfkd.orchestrator import sweep

    listener = Untimely()
    result = sweep(
        write_task(tmp_path, 3),
        trials=2,
        concurrent=1,
        scheduler="fifo",
        select="accuracy",
        control=False,
        storage=str(tmp_path / "runs"),
        watcher=listener,
    )
    assert any("t001 lost its worker" in text for text in listener.said)
    assert [record.outcome for record in result.records] == ["finished", "finished"]


def test_interrupting_saves_the_state_and_tells_how_to_go_on(own_ray, tmp_path):
    task = write_task(tmp_path, EPOCHS, kd_steps=LONG)
    process = start_sweep(task, tmp_path, *OPTIONS, *ALONE)
    wait_until(lambda: len(history(tmp_path, "t000")) >= 3)
    process.send_signal(signal.SIGINT)
    status, _, complained = end(process)
    assert status == 130
    assert len(history(tmp_path, "t001")) < EPOCHS, "it waited for the trials to end"
    assert "dfkd resume s" in complained
    assert "Traceback" not in complained
    assert json.loads((tmp_path / "runs/s/sweep.json").read_text())["state"] == "interrupted"
    assert (tmp_path / "runs/s/results.parquet").is_file()
    status, _, complained = sweep_here(task, tmp_path, *OPTIONS, *ALONE)
    assert status == 0, complained
    assert_complete(tmp_path)


def test_a_request_to_end_counts_as_an_interruption(tmp_path, dfkd_cache):
    task = write_task(tmp_path, EPOCHS, kd_steps=LONG)
    process = start_sweep(task, tmp_path, *OPTIONS, *ALONE)
    wait_until(lambda: len(history(tmp_path, "control")) >= 1)
    process.send_signal(signal.SIGTERM)
    status, _, complained = end(process)
    assert status == 130
    assert "dfkd resume s" in complained and "SIGTERM received" not in complained
