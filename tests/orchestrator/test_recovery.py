"""Sweeps whose processes are killed: nothing that was finished is lost, done twice or left out."""

from __future__ import annotations

import json
import random
import signal
import time

import pyarrow.parquet as pq
import pytest
from ray_sweeps import end, kill_one, start_sweep, wait_until, write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EPOCHS = 40
TRIALS = ("control", "t000", "t001")
OPTIONS = ("--trials", "2", "--scheduler", "fifo", "--json")


def history(folder, trial):
    """The rows of a trial's last checkpoint."""
    file = folder / "runs" / "s" / "trials" / trial / "history.json"
    return json.loads(file.read_text()) if file.is_file() else []


def assert_complete(folder):
    rows = pq.read_table(folder / "runs" / "s" / "results.parquet").to_pylist()
    epochs = {trial: [row["epoch"] for row in rows if row["trial"] == trial] for trial in TRIALS}
    assert epochs == {trial: list(range(1, EPOCHS + 1)) for trial in TRIALS}
    return rows


def test_a_sweep_whose_driver_was_killed_goes_on_where_it_was(tmp_path, dfkd_cache):
    task = write_task(tmp_path, EPOCHS, kd_steps=40)
    first = start_sweep(task, tmp_path, *OPTIONS)
    wait_until(lambda: len(history(tmp_path, "t000")) >= 3)
    time.sleep(random.Random(0).uniform(0, 3))
    first.kill()
    first.communicate()
    saved = {trial: history(tmp_path, trial) for trial in TRIALS}
    status, _, complained = end(start_sweep(task, tmp_path, *OPTIONS))
    assert status == 0, complained
    rows = assert_complete(tmp_path)
    # A row that was saved was not measured again: even its timings are those of the first run.
    kept = {(row["trial"], row["epoch"]): row["seconds"] for row in rows}
    for trial, past in saved.items():
        assert [kept[trial, row["epoch"]] for row in past] == [row["seconds"] for row in past]


def test_a_trial_whose_actor_was_killed_goes_on_where_it_was(tmp_path, dfkd_cache):
    task = write_task(tmp_path, EPOCHS, kd_steps=40)
    process = start_sweep(task, tmp_path, *OPTIONS)
    wait_until(lambda: len(history(tmp_path, "t000")) >= 3)
    kill_one(process.pid, "ray::TrialActor")
    status, printed, complained = end(process)
    assert status == 0, complained
    assert "lost its worker" in printed
    assert_complete(tmp_path)


def test_interrupting_saves_the_state_and_tells_how_to_go_on(tmp_path, dfkd_cache):
    task = write_task(tmp_path, EPOCHS, kd_steps=20)
    alone = ("--concurrent", "1")  # or, on many cores, all trials end before the interruption
    process = start_sweep(task, tmp_path, *OPTIONS, *alone)
    wait_until(lambda: len(history(tmp_path, "t000")) >= 3)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    status, _, complained = end(process, 60)
    assert time.monotonic() - start < 10
    assert status == 130
    assert "dfkd resume s" in complained
    assert "Traceback" not in complained
    assert json.loads((tmp_path / "runs/s/sweep.json").read_text())["state"] == "interrupted"
    assert (tmp_path / "runs/s/results.parquet").is_file()
    status, _, complained = end(start_sweep(task, tmp_path, *OPTIONS))
    assert status == 0, complained
    assert_complete(tmp_path)


def test_a_request_to_end_counts_as_an_interruption(tmp_path, dfkd_cache):
    process = start_sweep(write_task(tmp_path, EPOCHS, kd_steps=20), tmp_path, *OPTIONS)
    wait_until(lambda: len(history(tmp_path, "t000")) >= 1)
    process.send_signal(signal.SIGTERM)
    status, _, complained = end(process, 60)
    assert status == 130
    assert "dfkd resume s" in complained and "SIGTERM received" not in complained
