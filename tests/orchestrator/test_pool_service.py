"""Keepers on a real Ray: found by name, lost, restarted, full."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest
import torch
from ray_sweeps import descendants, local_ray, wait_until

from dfkd.methods.memory import Shard
from dfkd.methods.shelf import Bundle
from dfkd.orchestrator.commons import OthersShards
from dfkd.orchestrator.pool_service import (
    Address,
    Keepers,
    PoolPlan,
    PoolService,
    pool_service,
    told,
)
from dfkd.orchestrator.shelves import RayShelf

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]

BUNDLE = 20_000  # bytes of a shard in these tests, besides a little more


@pytest.fixture(scope="module")
def own_ray(dfkd_cache):  # which also says how all of a process's Rays authenticate
    """A Ray of one CPU in this process."""
    with local_ray(1) as ray:
        yield ray


@pytest.fixture
def service(own_ray):
    """Keepers with room for four bundles."""
    service = PoolService(PoolPlan(mode="exact", budget=5 * BUNDLE))
    service.start()
    yield service
    service.stop()


def shelf(service, who="a"):
    return RayShelf(Keepers(service.address), who)


def commons(service, trial):
    return OthersShards(Keepers(service.address), trial)


def shard(number=0, size=BUNDLE):
    images = torch.full((size // 100, 1, 10, 10), number % 256, dtype=torch.uint8)
    return Shard(images, torch.arange(len(images)))


def bundle(number=0, size=BUNDLE):
    return Bundle.of([shard(number, size)], {"number": number})


def number_of(found):
    """Which bundle it is; None for none."""
    return None if found is None else found.open(torch.device("cpu"))["number"]


def values(shards):
    return sorted(int(shard.images.flatten()[0]) for shard in shards)


def kill_keeper():
    """kill -9 the keeper's process; Ray starts another."""
    (victim,) = [p for p, name in descendants(os.getpid()).items() if "ray::PoolKeeper" in name]
    os.kill(victim, signal.SIGKILL)
    return victim


def test_what_one_gives_another_takes(service):
    shelf(service).give("key", bundle(7))
    wait_until(lambda: service.counts().kept == 1)
    assert number_of(shelf(service, "b").take("key")) == 7


def test_bundles_give_way_to_others(service):
    giver = shelf(service)
    for number in range(5):
        giver.give(str(number), bundle(number))
    assert [number_of(giver.take(str(n))) for n in range(5)] == [None, 1, 2, 3, 4]
    assert service.counts().evictions == 1


def test_a_bundle_that_is_too_large_is_refused_before_it_crosses_the_object_store(
    service, monkeypatch
):
    sent = []
    tell = Keepers.tell
    monkeypatch.setattr(Keepers, "tell", lambda *given: sent.append(given[2]) or tell(*given))
    giver = shelf(service)
    for number, size in enumerate([2 * BUNDLE, 6 * BUNDLE]):
        giver.give(str(number), bundle(number, size))
    assert sent == ["give"]
    assert service.counts().refusals == 1
    wait_until(lambda: service.counts().kept == 1)


def test_a_bundle_outlives_the_process_that_made_it(own_ray, service):
    @own_ray.remote(num_cpus=0)
    class Maker:
        def give(self, address):
            RayShelf(Keepers(address), "maker").give("key", bundle(7))

    own_ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker can import it
    maker = Maker.remote()
    own_ray.get(maker.give.remote(service.address))
    wait_until(lambda: service.counts().kept == 1)
    own_ray.kill(maker)
    assert number_of(shelf(service).take("key")) == 7


def test_who_comes_second_waits_for_the_first_and_takes_what_it_made(service):
    first, second = shelf(service, "a"), shelf(service, "b")
    assert first.take("key") is None
    found = []
    waiting = threading.Thread(target=lambda: found.append(second.take("key")))
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive()
    first.give("key", bundle(3))
    waiting.join(10)
    assert number_of(found[0]) == 3
    assert service.counts().waits == 1


def test_who_waits_in_vain_makes_it_himself(service):
    first, second = shelf(service, "a"), shelf(service, "b")
    first.take("key")
    waiting = threading.Thread(target=lambda: second.take("key"))
    waiting.start()
    first.waive("key")
    waiting.join(10)
    assert not waiting.is_alive()


def test_trials_draw_each_others_shards_until_there_are_no_more(service):
    one, two = commons(service, "one"), commons(service, "two")
    one.add([shard(1), shard(2)], [0.0, 0.0], epoch=0)
    wait_until(lambda: service.counts().kept == 2)
    drawn = two.draw(10**6, [(10, 10)], 0)
    assert values(drawn) == [1, 2] and len(drawn[0].labels) == BUNDLE // 100
    assert two.draw(10**6, [(10, 10)], 2) == [] == one.draw(10**6, [(10, 10)], 0)


def test_a_killed_keeper_loses_what_it_kept_and_goes_on_empty(service):
    one, two = commons(service, "one"), commons(service, "two")
    one.add([shard(1)], [0.0], epoch=0)
    wait_until(lambda: service.counts().kept == 1)
    victim = kill_keeper()
    wait_until(lambda: victim not in descendants(os.getpid()))
    assert two.draw(100, [(10, 10)], 0) == []  # nothing raises
    wait_until(lambda: _kept_again(service), timeout=60)
    assert values(commons(service, "three").draw(10**6, [(10, 10)], 0)) == [5]


def _kept_again(service):
    commons(service, "one").add([shard(5)], [0.0], epoch=1)
    return service.counts().kept > 0


def test_a_keeper_that_does_not_answer_is_asked_once(own_ray, monkeypatch):
    from dfkd.orchestrator import pool_service

    class Hanging:
        def take(self, key, who):
            time.sleep(60)

    monkeypatch.setattr(pool_service, "PATIENCE", 0.2)
    here = own_ray.get_runtime_context().get_node_id()
    own_ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    actor = own_ray.remote(num_cpus=0)(Hanging).options(name=here, namespace="hanging").remote()
    waiting = RayShelf(Keepers(Address("hanging", "exact")), "a")
    assert waiting.open
    assert waiting.take("key") is None and not waiting.open
    start = time.monotonic()
    assert waiting.take("key") is None
    assert time.monotonic() - start < 0.1
    own_ray.kill(actor)


def test_keepers_end_with_their_sweep(own_ray):
    with pool_service(PoolPlan(mode="teacher")) as service:
        commons(service, "one").add([shard(1)], [0.0], epoch=0)
        wait_until(lambda: service.counts().kept == 1)
        commons(service, "two").draw(1, [(10, 10)], 0)
        assert told(service.counts(), "teacher").startswith("shared synthesis: 1 shards drawn")
    wait_until(lambda: not Keepers(service.address).nodes(), timeout=30)


def test_a_pool_larger_than_the_object_store_spills_and_goes_on(tmp_path):
    """In a Ray of its own: 78.6 MB of store, the least there may be, and 150 MB of shards."""
    import subprocess

    code = """
import sys; sys.path[:0] = sys.argv[1:]
import ray, torch
from dfkd.orchestrator.clusters import QUIET
import os; os.environ.update(QUIET)
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
         object_store_memory=80_000_000)
from dfkd.methods.memory import Shard
from dfkd.orchestrator.commons import OthersShards
from dfkd.orchestrator.pool_service import *
service = PoolService(PoolPlan(mode="teacher", budget=1_000_000_000))
service.start()
one = OthersShards(Keepers(service.address), "one")
for number in range(50):
    images = torch.full((1000, 3, 32, 32), number, dtype=torch.uint8)
    one.add([Shard(images, torch.zeros(1000, dtype=torch.int64))], [0.0], number)
    ray.get([k.counts.remote() for k in service._keepers.values()])
two = OthersShards(Keepers(service.address), "two")
seen = set()
while drawn := two.draw(4000, [(32, 32)], 0):
    seen |= {int(shard.images[-1].max()) for shard in drawn}
    del drawn
assert seen == set(range(50)), seen
assert service.counts().spilled > 50_000_000, service.counts()
assert service.counts().kept == 50 and service.counts().evictions == 0
service.stop()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *sys.path], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
