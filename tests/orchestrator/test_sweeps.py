"""Whole sweeps on a Ray of their own: what they give, leave behind, and refuse."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from ray_sweeps import end, start_sweep, write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TIMINGS = ("seconds", "began", "ended", "trial")


def measured(rows):
    """Rows without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if not key.startswith(TIMINGS)} for row in rows
    ]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, dfkd_cache):
    """A finished sweep of three trials, its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("swept")
    task = write_task(folder)
    status, printed, complained = end(start_sweep(task, folder, "--trials", "3", "--json"))
    assert status == 0, complained
    return task, folder / "runs" / "s", printed


def test_json_is_all_there_is_on_standard_output(swept):
    events = [json.loads(line) for line in swept[2].splitlines()]
    assert events[-1]["event"] == "sweep_ended"
    assert {event["trial"] for event in events if event["event"] == "trial_ended"} == {
        "control",
        "t000",
        "t001",
        "t002",
    }


def test_results_hold_every_epoch_of_every_trial_once(swept):
    rows = pq.read_table(swept[1] / "results.parquet").to_pylist()
    by_trial = {}
    for row in rows:
        by_trial.setdefault(row["trial"], []).append(row["epoch"])
    assert set(by_trial) == {"control", "t000", "t001", "t002"}
    assert all(epochs == list(range(1, len(epochs) + 1)) for epochs in by_trial.values())


def test_a_trial_gives_the_same_numbers_on_ray_as_in_this_process(swept, tmp_path):
    from dfkd.orchestrator import distill

    task, folder, _ = swept
    here = distill(task, storage=str(tmp_path), name="here").best
    there = json.loads((folder / "trials" / "t000" / "result.json").read_text())
    rows = len(there["rows"])  # the scheduler may have stopped it
    assert measured(here.rows)[:rows] == measured(there["rows"])


def test_the_best_trial_is_exported_and_the_control_never(swept):
    facts = json.loads((swept[1] / "sweep.json").read_text())
    metrics = json.loads((swept[1] / "best" / "metrics.json").read_text())
    rows = pq.read_table(swept[1] / "results.parquet").to_pylist()
    highest = max(row["score"] for row in rows if row["trial"] != "control")
    assert facts["state"] == "finished"
    assert metrics["trial"] == facts["best"]["trial"] != "control"
    assert metrics["score"] == highest
    assert metrics["noise_control_accuracy"] is not None


def test_the_same_command_after_the_end_only_shows_the_result(swept):
    task, folder, _ = swept
    before = (folder / "results.parquet").read_bytes()
    status, printed, _ = end(start_sweep(task, folder.parents[1], "--trials", "3", "--json"), 60)
    events = [json.loads(line)["event"] for line in printed.splitlines()]
    assert status == 0
    assert events == ["sweep_started", "sweep_ended"]
    assert (folder / "results.parquet").read_bytes() == before


def test_more_trials_can_be_added_to_a_finished_sweep(swept):
    task, folder, _ = swept
    results = {
        id: (folder / "trials" / id / "result.json").read_bytes() for id in ("t000", "t001", "t002")
    }
    status, printed, complained = end(
        start_sweep(task, folder.parents[1], "--trials", "4", "--json")
    )
    assert status == 0, complained
    ended = [json.loads(line) for line in printed.splitlines()]
    assert [e["trial"] for e in ended if e["event"] == "trial_ended"] == ["t003"]
    for id, bytes_ in results.items():
        assert (folder / "trials" / id / "result.json").read_bytes() == bytes_


def test_resources_that_never_suffice_are_told_and_end_the_command(tmp_path, dfkd_cache):
    task = write_task(tmp_path)
    process = start_sweep(task, tmp_path, "--cpus-per-worker", "512")
    status, _, complained = end(process, 60)
    assert status == 1
    assert "512 CPU" in complained
    assert "--cpus-per-worker" in complained
    assert "Traceback" not in complained


def test_a_trial_that_fails_does_not_stop_the_sweep(tmp_path, dfkd_cache):
    task = write_task(tmp_path)
    process = start_sweep(
        task, tmp_path, "--trials", "2", "--set", "student_lr=1e30", "--set", "clip_norm=0"
    )
    status, printed, complained = end(process)
    assert status == 1
    assert "every trial failed" in complained
    assert "student_lr" in complained
    assert "t000 failed" in printed
    assert "t001 failed" in printed
