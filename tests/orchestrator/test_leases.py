"""One driver at a time where storage knows no locks: small paces, real threads, memory."""

import json
import threading
import time
from dataclasses import dataclass, replace

import pytest
from folders import InMemory

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator import leases
from dfkd.orchestrator.leases import LEASE, Follower, Lease, LeaseLost, Pace, held, holder
from dfkd.orchestrator.patience import StorageFailed

PACE = Pace(renew=0.1, expire=1.0, settle=0.05)


@pytest.fixture
def folder():
    return InMemory("runs/mine")


def ignore(text):
    """Says nothing."""


def abandoned(folder, **changes):
    """The lease of a driver that was killed."""
    with held(folder, ignore, PACE):
        facts = folder.read_json(LEASE)
    folder.write_json(LEASE, facts | {"host": "elsewhere"} | changes)


# Who gets it


def test_a_lease_that_nobody_holds_is_taken_soon(folder):
    started = time.monotonic()
    with held(folder, ignore, PACE) as lease:
        lease.check()
    assert time.monotonic() - started < PACE.expire


def test_a_second_driver_is_refused_soon_and_told_where_the_first_is(folder):
    with (
        held(folder, ignore, PACE),
        pytest.raises(ConfigError, match=r"mine is running already, on \S+ \(process \d+\)"),
        held(folder, ignore, PACE),
    ):
        pass


def test_a_driver_that_is_refused_leaves_the_first_one_be(folder):
    with held(folder, ignore, PACE) as lease:
        with pytest.raises(ConfigError), held(folder, ignore, PACE):
            pass
        time.sleep(2 * PACE.expire)
        lease.check()


def test_a_lease_is_free_when_its_driver_ends(folder):
    with held(folder, ignore, PACE):
        pass
    said = []
    with held(folder, said.append, PACE):
        assert not said


def test_a_lease_is_free_when_its_driver_fails(folder):
    with pytest.raises(ZeroDivisionError), held(folder, ignore, PACE):
        _ = 1 / 0
    assert folder.read(LEASE) is None


def test_the_lease_of_a_killed_driver_is_taken_over_after_a_while_and_that_is_said(folder):
    abandoned(folder)
    said, started = [], time.monotonic()
    with held(folder, said.append, PACE) as lease:
        assert PACE.expire < time.monotonic() - started < 4 * PACE.expire
        lease.check()
    assert len(said) == 1 and "was last run on elsewhere" in said[0]


@pytest.mark.parametrize("minutes", [-50, 50])
def test_clocks_that_disagree_change_nothing(folder, minutes):
    abandoned(folder, renewed=time.time() + 60 * minutes)
    started = time.monotonic()
    with held(folder, ignore, PACE):
        assert time.monotonic() - started > PACE.expire


def test_nobody_waits_for_a_lease_of_yesterday(folder):
    abandoned(folder, renewed=time.time() - 86_400)
    started = time.monotonic()
    with held(folder, ignore, PACE):
        assert time.monotonic() - started < PACE.expire


@pytest.mark.parametrize("drivers", [2, 5])
def test_of_many_that_begin_at_the_same_time_one_at_most_gets_it(folder, drivers):
    start, at_work, most = threading.Barrier(drivers), [], []

    def drive():
        start.wait()
        try:
            with held(folder, ignore, PACE) as lease:
                at_work.append(lease)
                most.append(len(at_work))
                time.sleep(2 * PACE.expire)
                lease.check()
                at_work.remove(lease)
        except ConfigError:
            pass

    threads = [threading.Thread(target=drive) for _ in range(drivers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_driver_that_is_interrupted_while_it_claims_a_lease_leaves_none(folder, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(leases.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt), held(folder, ignore, PACE):
        pass
    assert folder.read(LEASE) is None


# Who loses it


@dataclass(frozen=True)
class Interrupted(InMemory):
    """A folder on whose lease something happens after a look and before the write that follows."""

    def write(self, name, data):
        if name == LEASE:
            self.changes.before_write()
        super().write(name, data)


def test_a_driver_that_claims_too_late_lets_the_first_one_notice():
    """It read that the lease is free, slept, and overwrote the lease of another."""
    shared = InMemory("runs/mine")
    slow = Interrupted(shared.uri, shared.contents, shared.changes)
    first = Lease(shared, PACE)
    began = []

    def meanwhile():
        if not began:
            began.append(True)
            first.take(ignore)
            time.sleep(PACE.settle)

    shared.changes.before_write = meanwhile
    second = Lease(slow, PACE)
    second.take(ignore)
    second.check()
    with pytest.raises(LeaseLost, match="taken over by another driver"):
        first.check()
    second.release()


def test_a_driver_that_was_paused_for_long_must_not_go_on(folder, monkeypatch):
    lease = Lease(folder, PACE)
    lease.take(ignore)
    lease._ended.set()  # the machine stands still,
    lease._renewer.join()
    with held(folder, ignore, PACE):
        lease._ended.clear()  # and goes on
        with pytest.raises(LeaseLost, match="taken over by another driver"):
            lease.check()


def test_a_driver_that_was_paused_goes_on_if_nobody_took_over(folder):
    lease = Lease(folder, PACE)
    lease.take(ignore)
    lease._ended.set()
    lease._renewer.join()
    time.sleep(2 * PACE.expire)
    lease._ended.clear()
    before = leases.clock()
    lease.check()
    assert leases.clock() - before >= PACE.expire, "somebody may have been about to"
    lease.release()


def test_a_driver_whose_lease_was_deleted_stops(folder):
    with held(folder, ignore, PACE) as lease:
        folder.delete(LEASE)
        time.sleep(3 * PACE.renew)
        with pytest.raises(LeaseLost):
            lease.check()


def test_storage_that_fails_for_less_than_a_lease_lasts_disturbs_nobody(folder):
    with held(folder, ignore, PACE) as lease:
        folder.changes.error, folder.changes.left = StorageFailed("later"), 0
        time.sleep(3 * PACE.renew)
        lease.check()
    assert folder.changes.left < 0, "it did fail"


# Who works for it


def test_a_worker_may_write_while_its_driver_holds_the_lease(folder):
    with held(folder, ignore, PACE) as lease:
        Follower(folder, lease.owner, PACE).check()


@pytest.mark.parametrize("other", [None, {"owner": "another"}])
def test_a_worker_stops_when_its_driver_holds_the_lease_no_more(folder, other):
    with held(folder, ignore, PACE) as lease:
        follower = Follower(folder, lease.owner, PACE)
        follower.check()
    if other is not None:
        folder.write("lease.json", json.dumps(other).encode())
    time.sleep(PACE.renew)
    with pytest.raises(LeaseLost):
        follower.check()


def test_a_worker_does_not_ask_at_every_write(folder):
    asked = []

    class Counting(InMemory):
        def read(self, name):
            asked.append(name)
            return super().read(name)

    with held(folder, ignore, PACE) as lease:
        counting = Counting(folder.uri, folder.contents, folder.changes)
        follower = Follower(counting, lease.owner, replace(PACE, renew=60.0))
        for _ in range(100):
            follower.check()
    assert len(asked) == 1


# What others see


def test_a_held_lease_tells_its_holder(folder):
    with held(folder, ignore, PACE) as lease:
        assert holder(folder)["owner"] == lease.owner
    assert holder(folder) is None


def test_a_killed_driver_is_no_holder_for_long(folder):
    abandoned(folder, renewed=time.time() - 2 * PACE.expire)
    assert holder(folder) is None
