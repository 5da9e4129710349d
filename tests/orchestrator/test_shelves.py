"""Sweeps whose trials share synthesis, on a real Ray: the same numbers, made once."""

from __future__ import annotations

import os
import re
import sys

import pyarrow.parquet as pq
import pytest
import torch
from ray_sweeps import kill_one, wait_until, write_task

from dfkd.methods.memory import Shard
from dfkd.methods.shelf import Bundle, NoShelf
from dfkd.orchestrator.watching import Silent

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

EPOCHS = 5
TRIALS = 3
BUNDLE = 20_000  # bytes of a shard in these tests, besides a little more


@pytest.fixture(scope="module")
def own_ray(dfkd_cache):
    """A Ray of two CPUs in this process."""
    import ray

    from dfkd.orchestrator.clusters import QUIET

    os.environ.update(QUIET)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def actor(own_ray):
    """A shelf with room for three bundles."""
    from dfkd.orchestrator.actors import Shelving

    actor = Shelving.remote(4 * BUNDLE)
    own_ray.get(actor.counts.remote(), timeout=120)  # it is up
    yield actor
    own_ray.kill(actor)


def bundle(number=0, size=BUNDLE):
    images = torch.full((size // 100, 1, 10, 10), number, dtype=torch.uint8)
    return Bundle.of([Shard(images, torch.arange(len(images)))], {"number": number})


def number_of(found):
    """Which bundle it is; None for none."""
    return None if found is None else found.open(torch.device("cpu"))["number"]


def kept(own_ray, actor):
    return own_ray.get(actor.counts.remote())


def test_what_is_given_can_be_taken_until_others_need_its_room(own_ray, actor):
    from dfkd.orchestrator.shelves import RayShelf

    shelf = RayShelf(actor)
    for number in range(3):
        shelf.give(str(number), bundle(number))
    assert number_of(shelf.take("0")) == 0  # now the one longest not taken is 1
    shelf.give("3", bundle(3))
    assert [number_of(shelf.take(str(n))) for n in range(4)] == [0, None, 2, 3]
    counts = kept(own_ray, actor)
    assert (counts.hits, counts.misses, counts.bundles, counts.evictions) == (4, 1, 3, 1)
    assert 3 * BUNDLE <= counts.bytes <= 4 * BUNDLE


def test_a_bundle_given_again_takes_the_place_of_the_first(own_ray, actor):
    from dfkd.orchestrator.shelves import RayShelf

    shelf = RayShelf(actor)
    for number in (1, 2):
        shelf.give("same", bundle(number))
    assert number_of(shelf.take("same")) == 2
    assert kept(own_ray, actor).bundles == 1


def test_a_bundle_larger_than_the_shelf_is_refused(own_ray, actor):
    from dfkd.orchestrator.shelves import RayShelf

    shelf = RayShelf(actor)
    shelf.give("small", bundle(1))
    shelf.give("large", bundle(2, size=5 * BUNDLE))
    assert number_of(shelf.take("large")) is None
    assert number_of(shelf.take("small")) == 1


def test_a_bundle_outlives_the_process_that_made_it(own_ray, actor):
    import ray

    from dfkd.orchestrator.shelves import RayShelf

    @own_ray.remote
    class Maker:
        def give(self, actor):
            RayShelf(actor).give("key", bundle(7))

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker can import it
    maker = Maker.remote()
    own_ray.get(maker.give.remote(actor))
    wait_until(lambda: kept(own_ray, actor).bundles == 1)
    own_ray.kill(maker)
    assert number_of(RayShelf(actor).take("key")) == 7


def test_a_dead_shelf_gives_nothing_and_is_not_asked_again(own_ray, actor):
    from dfkd.orchestrator.shelves import RayShelf

    shelf = RayShelf(actor)
    shelf.give("key", bundle())
    own_ray.kill(actor)
    assert shelf.take("key") is None and not shelf.open
    shelf.give("key", bundle())


def test_a_shelf_that_does_not_answer_is_not_waited_for(own_ray, monkeypatch):
    from dfkd.orchestrator import shelves

    @own_ray.remote
    class Hanging:
        def take(self, key):
            import time

            time.sleep(60)

    monkeypatch.setattr(shelves, "PATIENCE", 0.2)
    actor = Hanging.remote()
    shelf = shelves.RayShelf(actor)
    assert shelf.take("key") is None and not shelf.open
    own_ray.kill(actor)


def test_a_trial_that_is_told_of_no_shelf_has_none():
    from dfkd.orchestrator.shelves import shelf_at

    assert isinstance(shelf_at(None), NoShelf)


class Listener(Silent):
    """Keeps what is said, and ends the shelf after the third epoch if asked."""

    def __init__(self, kills=False):
        self.said = []
        self.rows = 0
        self.kills = kills

    def say(self, text):
        self.said.append(text)

    def epoch_ended(self, spec, row):
        self.rows += 1
        if self.kills and self.rows == 3:
            kill_one(os.getpid(), "ray::Shelves")

    @property
    def taken(self):
        """How many epochs were taken; None if that was not said."""
        found = [re.search(r"(\d+) epochs taken instead of made", text) for text in self.said]
        return next((int(match[1]) for match in found if match), None)


@pytest.fixture(scope="module")
def run(own_ray, tmp_path_factory):
    """Run a sweep over the student's learning rate; returns its rows and who listened."""
    from dfkd.orchestrator import sweep

    folder = tmp_path_factory.mktemp("sharing")
    task = write_task(folder, EPOCHS)

    def run(sharing, *, kills=False, **options):
        listener = Listener(kills)
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
        table = pq.read_table(f"{folder}/{result.run.name}/results.parquet").to_pylist()
        clock = ("seconds", "began", "ended")
        rows = [{k: v for k, v in row.items() if not k.startswith(clock)} for row in table]
        return rows, listener

    return run


@pytest.fixture(scope="module")
def unshared(run):
    """The rows of a sweep in which every trial makes its own."""
    rows, listener = run("off")
    assert listener.taken is None
    assert len(rows) == TRIALS * EPOCHS
    assert len({row["recipe.student_lr"] for row in rows}) == TRIALS
    return rows


def test_shared_synthesis_is_made_once_and_changes_no_number(run, unshared):
    rows, listener = run("exact")
    assert rows == unshared
    assert listener.taken == (TRIALS - 1) * EPOCHS


def test_losing_the_shelf_in_the_middle_costs_nothing_but_making_again(run, unshared):
    rows, listener = run("exact", kills=True)
    assert rows == unshared
    assert any("shelf was lost" in text for text in listener.said)


def test_trials_at_the_same_time_do_not_wait_for_each_other(run, unshared):
    rows, _ = run("exact", concurrent=2)
    key = lambda row: (row["trial"], row["epoch"])  # noqa: E731
    assert sorted(rows, key=key) == sorted(unshared, key=key)


def test_a_trial_whose_two_workers_take_everything_equals_the_one_that_made_it(run):
    settings = {"adversarial_weight": 0.0, "student_lr": 0.05}  # nothing is left to search
    rows, listener = run("exact", workers=2, cpus_per_worker=0.9, trials=2, settings=settings)
    made, taken = ([{**r, "trial": ""} for r in rows if r["trial"] == t] for t in ("t000", "t001"))
    assert made == taken
    assert listener.taken == 2 * EPOCHS  # by each of its workers
