import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfkd.methods.random_streams import derive_seed, global_stream, stream

PARTS = st.lists(st.integers() | st.text(), min_size=1, max_size=4)


@given(PARTS)
def test_a_seed_is_a_whole_number_of_63_bits(parts):
    assert 0 <= derive_seed(*parts) < 2**63


@given(PARTS, PARTS)
def test_equal_parts_and_only_equal_parts_give_equal_seeds(one, two):
    assert (derive_seed(*one) == derive_seed(*two)) == (one == two)


def test_seeds_of_neighboring_epochs_and_workers_do_not_collide():
    places = itertools.product(range(5), ["epoch", "jury"], range(100), range(8))
    seeds = [derive_seed(*place) for place in places]
    assert len(set(seeds)) == len(seeds)


def test_the_order_of_the_parts_matters():
    assert derive_seed(1, 2) != derive_seed(2, 1)


def test_parts_do_not_run_together():
    assert derive_seed("ab", "c") != derive_seed("a", "bc")


def test_a_number_is_not_its_text():
    assert derive_seed(1) != derive_seed("1")


def test_seeds_are_the_same_on_every_machine_and_in_every_release():
    # 8 bytes of the blake2b of "(0, 'epoch', 3)", shifted right by one. Another number here means
    # that every result moves.
    assert derive_seed(0, "epoch", 3) == 0x1F5A50E13E0A533A


def test_a_stream_depends_on_its_parts_alone():
    torch.manual_seed(1)
    first = torch.rand(5, generator=stream("cpu", 0, "epoch", 3))
    torch.manual_seed(2)
    assert torch.equal(torch.rand(5, generator=stream("cpu", 0, "epoch", 3)), first)


def test_streams_of_different_parts_differ():
    one, two = (torch.rand(5, generator=stream("cpu", 0, "epoch", e)) for e in (3, 4))
    assert not torch.equal(one, two)


def test_a_stream_does_not_draw_from_the_global_generator():
    before = torch.get_rng_state()
    torch.rand(5, generator=stream("cpu", 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_within_a_global_stream_the_parts_decide_what_is_drawn():
    draws = []
    for outside in (1, 2):
        torch.manual_seed(outside)
        with global_stream("cpu", "weights", 7):
            draws.append(torch.rand(5))
    assert torch.equal(*draws)


def test_after_a_global_stream_the_generator_goes_on_as_if_nothing_had_been():
    torch.manual_seed(1)
    expected = torch.rand(5)
    torch.manual_seed(1)
    with global_stream("cpu", "weights"):
        torch.rand(100)
    assert torch.equal(torch.rand(5), expected)


def test_an_error_within_a_global_stream_leaves_the_generator_as_it_was():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), global_stream("cpu", "weights"):
        torch.rand(100)
        1 / 0  # noqa: B018
    assert torch.equal(torch.get_rng_state(), before)


def test_global_streams_can_be_nested():
    with global_stream("cpu", "outer"):
        torch.rand(1)
        expected = torch.rand(5)
    with global_stream("cpu", "outer"):
        torch.rand(1)
        with global_stream("cpu", "inner"):
            torch.rand(3)
        assert torch.equal(torch.rand(5), expected)
