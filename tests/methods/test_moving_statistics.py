import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng

from dfkd.methods.losses import batch_norm_gap
from dfkd.methods.moving_statistics import MovingStatistics


def layers(seed, *widths):
    """Statistics of a batch: mean and variance of each layer."""
    draws = rng(seed)
    return [
        (torch.randn(width, generator=draws), torch.rand(width, generator=draws))
        for width in widths or (3, 5)
    ]


def flat(statistics):
    return torch.cat([values for pair in statistics for values in pair])


def after(momentum, *seeds):
    statistics = MovingStatistics(momentum)
    for seed in seeds:
        statistics.remember(layers(seed))
    return statistics


def test_without_a_past_the_batchs_own_statistics_count():
    batch = layers(0)
    assert torch.equal(flat(MovingStatistics(0.9).blended(batch)), flat(batch))


def test_the_first_round_is_remembered_whole():
    assert torch.equal(flat(after(0.9, 1).past), flat(layers(1)))


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 1.0])
def test_the_past_has_the_share_that_is_set(momentum):
    blended = after(momentum, 1).blended(layers(2))
    expected = (1 - momentum) * flat(layers(2)) + momentum * flat(layers(1))
    assert torch.allclose(flat(blended), expected)


@given(st.floats(0, 1), st.lists(st.integers(0, 99), min_size=1, max_size=6))
def test_the_past_is_the_exponential_average_of_all_rounds(momentum, seeds):
    first, *rest = seeds
    weights = [(1 - momentum) * momentum**age for age in reversed(range(len(rest)))]
    expected = momentum ** len(rest) * flat(layers(first))
    expected = expected + sum(w * flat(layers(s)) for w, s in zip(weights, rest, strict=True))
    assert torch.allclose(flat(after(momentum, *seeds).past), expected, atol=1e-5)


def test_to_blend_does_not_move_the_past():
    statistics = after(0.9, 1)
    statistics.blended(layers(2))
    assert torch.equal(flat(statistics.past), flat(layers(1)))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_gradient_to_the_batch_is_scaled_by_its_share(momentum):
    gradients, kept = [], layers(1)
    for statistics in (MovingStatistics(momentum), after(momentum, 1)):
        batch = [(mean.requires_grad_(), variance) for mean, variance in layers(2)]
        # past and teacher agree, so the gap keeps its direction and shrinks by the share
        batch_norm_gap(statistics.blended(batch), kept).backward()
        gradients.append(torch.cat([mean.grad for mean, _ in batch]))
    assert torch.allclose(gradients[1], (1 - momentum) * gradients[0], atol=1e-6)


def test_the_past_keeps_no_graph():
    batch = [(mean.requires_grad_() * 2, variance) for mean, variance in layers(2)]
    statistics = after(0.9, 1)
    statistics.remember(batch)
    assert not flat(statistics.past).requires_grad


def test_forgetting_makes_it_as_new():
    statistics = after(0.9, 1, 2)
    statistics.forget()
    assert statistics.past is None
    assert torch.equal(flat(statistics.blended(layers(3))), flat(layers(3)))


def test_statistics_of_another_network_are_refused():
    with pytest.raises(ValueError, match="do not match"):
        after(0.9, 1).blended(layers(2, 3))
