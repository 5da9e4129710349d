import pytest

from dfkd.methods import method
from dfkd.methods.method import Clock


@pytest.fixture
def ticks(monkeypatch):
    """A clock that tests turn by hand: `ticks[0] += seconds`."""
    now = [0.0]
    monkeypatch.setattr(method.time, "perf_counter", lambda: now[0])
    return now


def test_times_of_one_activity_add_up(ticks):
    clock = Clock()
    for seconds in (1, 2):
        with clock("synthesis"):
            ticks[0] += seconds
    assert clock.read() == {"synthesis": 3}


def test_activities_are_kept_apart(ticks):
    clock = Clock()
    with clock("synthesis"):
        ticks[0] += 1
    with clock("waiting"):
        ticks[0] += 4
    assert clock.read() == {"synthesis": 1, "waiting": 4}


def test_time_between_activities_is_not_counted(ticks):
    clock = Clock()
    with clock("synthesis"):
        ticks[0] += 1
    ticks[0] += 100
    assert clock.read() == {"synthesis": 1}


def test_reading_starts_again_from_zero(ticks):
    clock = Clock()
    with clock("synthesis"):
        ticks[0] += 1
    clock.read()
    assert clock.read() == {}


def test_time_before_a_failure_counts(ticks):
    clock = Clock()
    with pytest.raises(ZeroDivisionError), clock("synthesis"):
        ticks[0] += 1
        1 / 0  # noqa: B018
    assert clock.read() == {"synthesis": 1}
