"""Work beside the trials, watched: here and on workers."""

from collections.abc import Iterator

import pytest
from ray_sweeps import local_ray

from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.places import Here, OnWorkers

pytestmark = pytest.mark.usefixtures("dfkd_cache")


def counting(upto: int) -> Iterator[int | str]:
    """1, 2, ..., then a result."""
    yield from range(1, upto + 1)
    yield f"counted to {upto}"


def failing(upto: int) -> Iterator[int | str]:
    yield 1
    raise ValueError(f"cannot count to {upto}")


CALLS = [(3,), (1,), (2,)]
RESULTS = ["counted to 3", "counted to 1", "counted to 2"]


def test_results_come_in_the_calls_order_and_work_as_it_is_done():
    told = []
    assert Here().watched(counting, CALLS, told.append) == RESULTS
    assert told == [1, 2, 3, 1, 1, 2]


@pytest.fixture(scope="module")
def workers(dfkd_cache):
    with local_ray(2):
        yield OnWorkers(Resources())


@pytest.mark.ray
def test_workers_do_the_same_side_by_side(workers):
    told = []
    assert workers.watched(counting, CALLS, told.append) == RESULTS
    assert sorted(told) == [1, 1, 1, 2, 2, 3]


@pytest.mark.ray
def test_what_goes_wrong_on_a_worker_is_raised_here(workers):
    told = []
    with pytest.raises(ValueError, match="cannot count to 5"):
        workers.watched(failing, [(5,)], told.append)
    assert told == [1]
