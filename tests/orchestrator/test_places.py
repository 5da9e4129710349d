"""Work beside the trials, watched: here and on workers."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray_sweeps import local_ray

from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.places import Here, OnWorkers

pytestmark = pytest.mark.usefixtures("dfkd_cache")


def counter(good: bool = True) -> Callable[[int], Iterator[int | str]]:
    """Counts 1, 2, ..., then a result, if it is good. Workers cannot import a test's functions:
    one that is made by another travels to them whole."""

    def counting(upto: int) -> Iterator[int | str]:
        done = 0
        while (done := done + 1) <= upto:
            yield done
        if not good:
            raise ValueError(f"cannot count to {upto}")
        yield f"counted to {upto}"

    return counting


CALLS = [(3,), (1,), (2,)]
RESULTS = ["counted to 3", "counted to 1", "counted to 2"]


def test_results_come_in_the_calls_order_and_work_as_it_is_done():
    told = []
    assert Here().watched(counter(), CALLS, told.append) == RESULTS
    assert told == [1, 2, 3, 1, 1, 2]


@pytest.fixture(scope="module")
def workers(dfkd_cache):
    with local_ray(2):
        yield OnWorkers(Resources())


@pytest.mark.ray
def test_workers_do_the_same_side_by_side(workers):
    told = []
    assert workers.watched(counter(), CALLS, told.append) == RESULTS
    assert sorted(told) == [1, 1, 1, 2, 2, 3]


@pytest.mark.ray
def test_what_goes_wrong_on_a_worker_is_raised_here(workers):
    told = []
    with pytest.raises(ValueError, match="cannot count to 2"):
        workers.watched(counter(good=False), [(2,)], told.append)
    assert told == [1, 2]


def dying_once(mark: Path) -> Callable[[int], Iterator[int | str]]:
    """As `counter`, but its process dies the first time that it has counted to 2."""

    def counting(upto: int) -> Iterator[int | str]:
        for done in range(1, upto + 1):
            yield done
            if done == 2 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        yield f"counted to {upto}"

    return counting


@pytest.mark.ray
def test_what_a_lost_worker_did_is_done_again(workers, tmp_path):
    told = []
    assert workers.watched(dying_once(tmp_path / "a"), CALLS, told.append) == RESULTS
    assert set(told) == {1, 2, 3}
    counting = dying_once(tmp_path / "b")
    results = workers(lambda upto: list(counting(upto))[-1], CALLS)
    assert results == RESULTS
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()
