import torch
from hypothesis import given
from hypothesis import strategies as st
from workbenches import CPU, rng

from dfkd.methods.feature_bank import FeatureBank


def filled(size, batches):
    """A bank to which rows 0, 1, 2, ... were added in batches of these sizes."""
    bank, count = FeatureBank(size, 2, CPU), 0
    for batch in batches:
        bank.add(torch.arange(count, count + batch).float()[:, None].expand(-1, 2))
        count += batch
    return bank


def kept(bank):
    return sorted(bank.rows[:, 0].tolist())


@given(st.integers(1, 12), st.lists(st.integers(0, 30), max_size=8))
def test_the_newest_rows_are_kept_whatever_the_sizes_of_bank_and_batches(size, batches):
    total = sum(batches)
    assert kept(filled(size, batches)) == list(range(max(0, total - size), total))


@given(st.integers(1, 12), st.lists(st.integers(0, 30), max_size=4), st.integers(0, 40))
def test_a_draw_holds_different_rows_and_no_more_than_there_are(size, batches, count):
    bank = filled(size, batches)
    drawn = bank.draw(count, rng())[:, 0].tolist()
    assert len(drawn) == len(set(drawn)) == min(count, len(bank.rows))
    assert set(drawn) <= set(kept(bank))


def test_every_row_is_drawn_sooner_or_later():
    bank = filled(10, [10])
    drawn = {row for seed in range(40) for row in bank.draw(2, rng(seed))[:, 0].tolist()}
    assert drawn == set(range(10))


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 9))
def test_a_restored_bank_goes_on_as_the_one_that_was_saved(batches, more):
    bank, restored = filled(5, batches), FeatureBank(5, 2, CPU)
    restored.restore(bank.state())
    rows = torch.rand(more, 2)
    bank.add(rows)
    restored.add(rows)
    assert torch.equal(bank.rows, restored.rows)


def test_a_restored_bank_shares_nothing_with_the_one_that_was_saved():
    bank, restored = filled(3, [3]), FeatureBank(3, 2, CPU)
    restored.restore(bank.state())
    bank.add(torch.full((2, 2), 9.0))
    assert restored.rows[:, 0].tolist() == [0, 1, 2]


def test_a_bank_is_restored_from_a_state_that_is_older_than_pieces():
    restored = FeatureBank(3, 2, CPU)
    restored.restore({"rows": filled(3, [3]).rows, "next": 0})
    assert restored.rows[:, 0].tolist() == [0, 1, 2]
