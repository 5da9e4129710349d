"""Sweeps whose trials share synthesis, on a real Ray: the same numbers, made once."""

from __future__ import annotations

import os
import re

import pyarrow.parquet as pq
import pytest
from ray_sweeps import Listener, kill_one, local_ray, write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

EPOCHS = 5
TRIALS = 3


@pytest.fixture(scope="module")
def own_ray(dfkd_cache):
    """A Ray of two CPUs in this process."""
    with local_ray(2) as ray:
        yield ray


def kill_keeper():
    kill_one(os.getpid(), "ray::PoolKeeper")


def taken(listener):
    """How many epochs were taken; None if that was not said."""
    found = [re.search(r"(\d+) epochs taken instead of made", text) for text in listener.said]
    return next((int(match[1]) for match in found if match), None)


@pytest.fixture(scope="module")
def run(own_ray, tmp_path_factory):
    """Run a sweep over the student's learning rate; returns its rows and who listened."""
    from dfkd.orchestrator import sweep

    folder = tmp_path_factory.mktemp("sharing")
    task = write_task(folder, EPOCHS)

    def run(sharing, *, kills=False, **options):
        listener = Listener(act=kill_keeper if kills else None)
        result = sweep(
            task,
            share_pools=sharing,
            watcher=listener,
            **{
                "trials": TRIALS,
                "concurrent": 1,
                "settings": {"adversarial_weight": 0.0},
                **options,
            },
            scheduler="fifo",
            search="random",
            control=False,
            storage=str(folder),
            name=f"run{len(list(folder.iterdir()))}",
        )
        listener.result = result
        table = pq.read_table(f"{folder}/{result.run.name}/results.parquet").to_pylist()
        clock = ("seconds", "began", "ended")
        rows = [{k: v for k, v in row.items() if not k.startswith(clock)} for row in table]
        return rows, listener

    return run


@pytest.fixture(scope="module")
def unshared(run):
    """The rows of a sweep in which every trial makes its own."""
    rows, listener = run("off")
    assert taken(listener) is None
    assert len(rows) == TRIALS * EPOCHS
    assert len({row["recipe.student_lr"] for row in rows}) == TRIALS
    return rows


def test_shared_synthesis_is_made_once_and_changes_no_number(run, unshared):
    rows, listener = run("exact")
    assert rows == unshared
    assert taken(listener) == (TRIALS - 1) * EPOCHS


def test_losing_the_keeper_in_the_middle_costs_nothing_but_making_again(run, unshared):
    rows, listener = run("exact", kills=True)
    assert rows == unshared
    assert (taken(listener) or 0) < (TRIALS - 1) * EPOCHS  # counted anew since it is back


def test_trials_at_the_same_time_make_nothing_twice(run, unshared):
    rows, listener = run("exact", concurrent=2)
    key = lambda row: (row["trial"], row["epoch"])  # noqa: E731
    assert sorted(rows, key=key) == sorted(unshared, key=key)
    assert taken(listener) == (TRIALS - 1) * EPOCHS


def test_trials_of_one_teacher_are_taught_from_each_others_shards(run):
    rows, listener = run("teacher", settings={"drawn_share": 0.5})
    by_trial = {trial: [r for r in rows if r["trial"] == trial] for trial in ("t000", "t002")}
    first, last = (
        [sum(r[what] for r in rows) for what in ("images_drawn", "images_made")]
        for rows in by_trial.values()
    )
    assert first[0] == 0
    assert last[0] > 0 and last[1] < first[1]
    assert sum(last) >= 0.9 * sum(first)
    assert any("drawn from other trials" in text for text in listener.said)
    assert listener.result.run.facts()["shared"]["hits"] > 0
