"""Images that are held out for the jury, and shards that trials draw from each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pixels import trial
from shelves import INVERSIONS, SILENT, DictShelf
from shelves import ran as ran_inversion
from shelves import trial as inversion

from dfkd.methods.commons import NoCommons, Ration
from dfkd.methods.jury import PROBES
from dfkd.methods.memory import Shard

each_method = pytest.mark.parametrize("name", INVERSIONS)


def pictures(images):
    """Each image as something that can be put into a set."""
    return {tuple(image.flatten().tolist()) for image in images}


# Held out


def test_what_is_held_out_is_never_taught():
    started = trial({"held_out": 0.3})
    (metrics,) = started.run(range(1))
    taught, aside = started.method.pool.images, started.method.probes(PROBES, torch.Generator())
    assert len(taught) + len(aside) == metrics["images_made"] == 21
    assert len(aside) >= 3
    assert not pictures(taught) & pictures(aside)


def test_without_holding_out_probes_are_of_what_was_taught():
    started = trial({"held_out": 0.0})
    started.run(range(1))
    probes = started.method.probes(5, torch.Generator().manual_seed(0))
    assert pictures(probes) <= pictures(started.method.pool.images)


@pytest.mark.parametrize("others_add", [True, False])
def test_what_others_may_have_been_taught_is_no_probe(others_add):
    started = trial({"held_out": 0.0, "drawn_share": 1.0}, commons=Table(others_add=others_add))
    started.run(range(1))
    assert len(started.method.probes(5, torch.Generator())) == 0


def test_no_more_is_kept_aside_than_a_jury_looks_at():
    started = trial({"held_out": 0.5, "batch_size": 90, "pool_capacity": 10})
    started.run(range(4))
    assert len(started.method.aside) == PROBES
    assert len(started.method.probes(50, torch.Generator())) == 50


def test_what_is_held_out_survives_a_checkpoint():
    started, resumed = trial({"held_out": 0.5}), trial({"held_out": 0.5})
    started.run(range(2))
    resumed.load(started.save())
    assert started.run(range(2, 3)) == resumed.run(range(2, 3))
    assert torch.equal(started.method.aside.images, resumed.method.aside.images)


# The ration


@given(
    share=st.floats(0, 1),
    batch=st.integers(2, 50),
    epochs=st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(1, 120), max_size=4))),
)
def test_no_more_than_the_share_is_replaced_but_for_a_last_shard(share, batch, epochs):
    ration = Ration(share, batch)
    due = made = images = 0
    largest = 0
    for rounds, offers in epochs:
        wanted = ration.allow(rounds)
        drawn = []
        for size in offers:
            if sum(len(s.images) for s in drawn) >= wanted:
                break
            drawn.append(Shard(torch.empty(size, 0), torch.empty(size)))
            largest = max(largest, size)
        left = ration.replace(drawn, rounds)
        assert 0 <= left <= rounds
        images += sum(len(shard.images) for shard in drawn)
        due, made = due + rounds, made + left
        assert images <= share * due * batch + largest
        assert (due - made) * batch <= images


def test_a_ration_goes_on_where_its_state_was_taken():
    one, two = Ration(0.5, 10), Ration(0.5, 10)
    one.allow(3)
    one.replace([Shard(torch.empty(14, 0), torch.empty(14))], 3)
    two.restore(one.state())
    assert (one.allow(2), one.replace([], 2), one.drawn) == (two.allow(2), two.replace([], 2), 1)


# Drawing


class Table(NoCommons):
    """Shards of one brightness each, endless; writes down what is drawn and left."""

    def __init__(self, *, size=(8, 8), others_add=True, stock=1000):
        self.others_add = others_add
        self.size = size
        self.stock = stock
        self.given, self.left = [], []

    def draw(self, images, sizes, drawn):
        found = []
        while self.size in sizes and images > 0 and len(self.given) < self.stock:
            value = 100 + len(self.given) % 100
            found.append(
                Shard(
                    torch.full((7, 1, *self.size), value, dtype=torch.uint8), torch.zeros(7).long()
                )
            )
            self.given.append(drawn)
            images -= 7
        return found

    def add(self, shards, losses, epoch):
        self.left += [
            (len(shard.images), loss, epoch) for shard, loss in zip(shards, losses, strict=True)
        ]


@each_method
def test_what_is_drawn_is_taught_and_replaces_rounds(name):
    values = {"drawn_share": 0.5, "warmup_rounds": 4, "held_out": 0.0, "pool_capacity": 60}
    started = inversion(name, values, commons=Table())
    first = started.run(range(1))[0]
    assert (first["images_drawn"], first["images_made"]) == (14, 14)
    pools = getattr(started.method.pool, "pools", {"only": started.method.pool}).values()
    assert any((image == image.flatten()[0]).all() for pool in pools for image in pool.images)


@each_method
def test_with_a_share_of_one_nothing_is_made_as_long_as_there_is_something_to_draw(name):
    started = inversion(name, {"drawn_share": 1.0}, commons=Table())
    metrics = started.run(range(4))
    assert sum(m["images_made"] for m in metrics) == 0
    assert "generator_loss" not in metrics[0] and "kd_loss" in metrics[-1]


@each_method
def test_who_finds_nothing_makes_everything(name):
    alone, empty = inversion(name), inversion(name, commons=Table(stock=0, others_add=False))
    assert alone.run(range(3)) == empty.run(range(3))


def test_shards_of_other_sizes_are_not_asked_for():
    started = trial(commons=Table(size=(4, 4)))
    assert started.run(range(1))[0]["images_drawn"] == 0


def test_everything_that_is_made_and_taught_is_left_for_others():
    table = Table(stock=0)
    started = trial({"held_out": 0.5}, commons=table)
    started.run(range(2))
    assert {epoch for _, _, epoch in table.left} == {0, 1}
    assert sum(size for size, _, _ in table.left) == len(started.method.pool)


def test_a_resumed_trial_says_how_much_it_has_drawn():
    first, second = Table(), Table()
    started, resumed = trial(commons=first), trial(commons=second)
    started.run(range(2))
    resumed.load(started.save())
    resumed.run(range(2, 3))
    assert second.given[0] == len(first.given) > 0


@each_method
def test_trials_that_draw_from_a_kept_pool_still_share_what_they_make(name):
    shelf = DictShelf()
    values = SILENT[name] | {"drawn_share": 0.5}
    ran_inversion(name, values, shelf=shelf, commons=Table(others_add=False))
    taker = ran_inversion(name, values, shelf=shelf, commons=Table(others_add=False))
    alone = ran_inversion(name, values, commons=Table(others_add=False))
    assert shelf.taken > 0
    assert taker.metrics == alone.metrics


def test_trials_that_draw_each_others_shards_share_nothing_by_lineage():
    shelf = DictShelf()
    ran_inversion("deepinversion", shelf=shelf, commons=Table(stock=0))
    assert not shelf.asked


# Who waits is told


@each_method
def test_every_step_of_a_shared_synthesis_is_a_sign_of_progress(name):
    shelf = DictShelf()
    ran_inversion(name, SILENT[name], shelf=shelf)
    assert set(shelf.proceeded) == set(shelf.bundles)
    assert len(shelf.proceeded) > len(shelf.bundles)
    assert not shelf.waived


@each_method
def test_the_first_look_at_the_student_ends_the_waiting(name):
    shelf = DictShelf()
    ran_inversion(name, {"adversarial_weight": 1.0}, shelf=shelf)
    (waived,) = shelf.waived
    assert waived == shelf.asked[-1]
    assert shelf.proceeded.count(waived) == 0
