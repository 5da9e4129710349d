"""Whole sweeps, the first on a Ray of its own: what they give, leave behind, and refuse."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from command_line import as_json
from ray_sweeps import end, local_ray, start_sweep, sweep_here, write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

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
    options = ("--trials", "3", "--concurrent", "2", "--json")
    status, printed, complained = end(start_sweep(task, folder, *options))
    assert status == 0, complained
    return task, folder / "runs" / "s", printed


@pytest.fixture(scope="module")
def own_ray(dfkd_cache):
    """A Ray of two CPUs in this process."""
    with local_ray(2) as ray:
        yield ray


def test_json_is_all_there_is_on_standard_output(swept):
    events = as_json(swept[2])
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
    status, printed, _ = sweep_here(task, folder.parents[1], "--trials", "3", "--json")
    assert status == 0
    events = [event["event"] for event in as_json(printed)]
    assert events == ["sweep_started", *["trial_known"] * 4, "sweep_ended"]
    assert (folder / "results.parquet").read_bytes() == before


def test_more_trials_can_be_added_to_a_finished_sweep(swept, own_ray):
    task, folder, _ = swept
    results = {
        id: (folder / "trials" / id / "result.json").read_bytes() for id in ("t000", "t001", "t002")
    }
    status, printed, complained = sweep_here(task, folder.parents[1], "--trials", "4", "--json")
    assert status == 0, complained
    ended = [event for event in as_json(printed) if event["event"] == "trial_ended"]
    assert [event["trial"] for event in ended] == ["t003"]
    for id, bytes_ in results.items():
        assert (folder / "trials" / id / "result.json").read_bytes() == bytes_


def test_resources_that_never_suffice_are_told_and_end_the_command(own_ray, tmp_path):
    status, _, complained = sweep_here(write_task(tmp_path), tmp_path, "--cpus-per-worker", "512")
    assert status == 1
    assert "512 CPU" in complained
    assert "--cpus-per-worker" in complained
    assert "Traceback" not in complained


def test_a_trial_that_fails_does_not_stop_the_sweep(own_ray, tmp_path):
    wild = ("--set", "student_lr=1e30", "--set", "clip_norm=0")
    options = ("--trials", "2", "--concurrent", "1", *wild)
    status, printed, complained = sweep_here(write_task(tmp_path), tmp_path, *options)
    assert status == 1
    assert "every trial failed" in complained
    assert "student_lr" in complained
    assert "t000 failed" in printed
    assert "t001 failed" in printed
