"""What a keeper keeps, and who gives way. No Ray is started: arrays are their own references."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfkd.orchestrator import keepers
from dfkd.orchestrator.keepers import POLICIES, Counts, PoolKeeper, ShardFacts, Store

KEY = "key"


def store(policy="ring", budget=100):
    return Store(budget, policy, Counts())


def filled(policy, sizes, budget=100, priorities=None):
    """A store that was offered values of these sizes under the keys 0, 1, 2, ..."""
    kept = store(policy, budget)
    for number, size in enumerate(sizes):
        priority = priorities[number] if priorities else 0.0
        kept.put(str(number), size, lambda number=number: number, priority)
    return kept


# Stores


@given(
    policy=st.sampled_from([*POLICIES, "least used"]),
    sizes=st.lists(st.integers(1, 120), max_size=30),
    priorities=st.lists(st.floats(-9, 9), min_size=30, max_size=30),
)
def test_a_store_never_exceeds_its_budget_and_counts_what_it_holds(policy, sizes, priorities):
    counts = Counts()
    kept = Store(100, policy, counts)
    for number, size in enumerate(sizes):
        accepted = kept.put(str(number), size, lambda number=number: number, priorities[number])
        assert accepted == (str(number) in kept)
        held = [sizes[int(key)] for key in kept]
        assert sum(held) == counts.bytes <= 100
        assert len(held) == counts.kept
    assert counts.kept + counts.evictions + counts.refusals == len(sizes)
    assert all(kept.take(key) == int(key) for key in kept)


def test_append_refuses_what_no_longer_fits():
    assert list(filled("append", [40, 40, 40, 20])) == ["0", "1", "3"]


def test_a_ring_gives_up_the_oldest():
    assert list(filled("ring", [40, 40, 40])) == ["1", "2"]


def test_what_was_taken_lately_stays_where_the_least_used_gives_way():
    kept = filled("least used", [40, 40])
    kept.take("0")
    kept.put("2", 40, lambda: 2)
    assert set(kept) == {"0", "2"}


def test_priority_gives_up_the_lowest_and_refuses_what_is_lower_still():
    kept = filled("priority", [40, 40, 40, 40], priorities=[3.0, 1.0, 2.0, 0.5])
    assert set(kept) == {"0", "2"}


def test_nobody_of_low_priority_leaves_for_one_that_cannot_stay():
    kept = filled("priority", [50, 50, 100], priorities=[1.0, 3.0, 2.0])
    assert set(kept) == {"0", "1"}


def test_a_reservoir_keeps_everything_ever_offered_with_the_same_probability():
    times = 4000
    survived = np.zeros(10)
    for seed in range(times):
        kept = store("reservoir", budget=3)
        kept._rng = random.Random(seed)
        for number in range(10):
            kept.put(str(number), 1, lambda number=number: number)
        survived[[int(key) for key in kept]] += 1
    expected = 0.3
    deviation = (expected * (1 - expected) / times) ** 0.5
    assert np.abs(survived / times - expected).max() < 5 * deviation


def test_the_same_key_again_takes_the_place_of_the_first():
    kept = filled("append", [90])
    assert kept.put("0", 95, lambda: "new")
    assert kept.take("0") == "new"


def test_nothing_is_made_that_will_not_be_kept():
    assert not store().put(KEY, 101, lambda: pytest.fail("there is no room for it"))


# Bundles


@pytest.fixture
def keeper(monkeypatch):
    monkeypatch.setattr(keepers, "ray", SimpleNamespace(put=lambda array: array))
    monkeypatch.setattr(keepers, "spilled_here", lambda: 0)
    return lambda **options: PoolKeeper(**{"budget": 10_000, "policy": "ring", **options})


def arrays(size=100):
    return np.zeros(size, dtype=np.uint8), np.zeros(2, dtype=np.int64)


def test_the_first_to_ask_makes_it_and_the_others_wait_until_it_is_there(keeper):
    kept = keeper()
    assert kept.take(KEY, "a") is None
    assert kept.take(KEY, "b") == "wait"
    assert kept.take(KEY, "a") is None  # resumed, it makes it again
    kept.give(KEY, "seal", *arrays())
    assert kept.take(KEY, "b")[0] == "seal"
    assert (kept.counts().hits, kept.counts().misses, kept.counts().waits) == (1, 2, 1)


def test_who_waited_makes_it_himself_once_the_maker_gives_no_sign(keeper, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(keepers.time, "monotonic", lambda: now[0])
    kept = keeper(stalled=5.0)
    kept.take(KEY, "a")
    now[0] = 4.0
    kept.proceed(KEY, "a")
    now[0] = 8.0
    assert kept.take(KEY, "b") == "wait"
    now[0] = 10.0
    assert kept.take(KEY, "b") is None
    kept.proceed(KEY, "a")  # too late: it is b's now
    assert kept.take(KEY, "c") == "wait"
    now[0] = 16.0
    assert kept.take(KEY, "c") is None


def test_nobody_waits_for_what_was_waived_or_was_too_large(keeper):
    kept = keeper()
    kept.take("waived", "a")
    kept.waive("waived")
    kept.take("large", "a")
    assert not kept.accepts("large", 20_000)
    for key in ("waived", "large"):
        assert [kept.take(key, who) for who in "bc"] == [None, None]


def test_a_bundle_is_accepted_up_to_the_budget_whatever_lies_there(keeper):
    kept = keeper(budget=100)
    kept.give("other", "seal", *arrays(60))
    assert kept.accepts(KEY, 100)
    assert not kept.accepts(KEY, 101)
    assert kept.counts().refusals == 1


# Shards


def add(keeper, number, trial="a", size=(4, 4), loss=0.0, images=10):
    facts = ShardFacts(
        key=f"{trial}{number}", trial=trial, epoch=0, images=images, size=size, loss=loss
    )
    batch = np.full((images, 1, *size), number, dtype=np.uint8)
    keeper.add(facts, batch, np.zeros(images, dtype=np.int64))


def keys(found):
    return {facts.key for facts, _ in found}


def test_a_trial_draws_what_others_made_and_never_the_same_twice(keeper):
    kept = keeper()
    for number in range(3):
        add(kept, number)
    add(kept, 0, trial="b")
    assert keys(kept.sample("a", 100, [(4, 4)])) == {"b0"}
    first = keys(kept.sample("b", 15, [(4, 4)]))
    rest = keys(kept.sample("b", 100, [(4, 4)]))
    assert len(first) == 2 and first | rest == {"a0", "a1", "a2"} and not first & rest
    assert kept.sample("b", 100, [(4, 4)]) == []


def test_only_shards_of_a_size_that_the_trial_takes_are_drawn(keeper):
    kept = keeper()
    add(kept, 1, size=(4, 4))
    add(kept, 2, size=(2, 2))
    assert keys(kept.sample("b", 100, [(2, 2), (8, 8)])) == {"a2"}


def test_of_a_full_pool_by_priority_the_shards_of_low_loss_stay(keeper):
    kept = keeper(budget=500, policy="priority")  # two shards
    for number, loss in enumerate([3.0, 1.0, 2.0, 4.0]):
        add(kept, number, loss=loss)
    assert {facts.key for facts in kept.shards()} == {"a1", "a2"}


def test_counts_of_several_keepers_add_up():
    one, two = Counts(hits=1, bytes=5), Counts(hits=2, refusals=1)
    assert one + two == Counts(hits=3, bytes=5, refusals=1)
