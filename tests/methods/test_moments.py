import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng

from dfkd.methods.moments import channel_moments

SHAPES = st.tuples(*(st.integers(1, 6) for _ in range(4)))
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def maps(shape, layout=torch.contiguous_format, seed=0):
    values = 3 + 2 * torch.randn(shape, generator=rng(seed), dtype=torch.float64)
    return values.contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(SHAPES, st.integers(0, 99))
def test_moments_are_mean_and_biased_variance_per_channel(layout, shape, seed):
    drawn_maps = maps(shape, layout, seed)
    mean, variance = channel_moments(drawn_maps)
    assert torch.allclose(mean, drawn_maps.mean((0, 2, 3)))
    assert torch.allclose(variance, drawn_maps.var((0, 2, 3), unbiased=False))


@pytest.mark.parametrize("layout", LAYOUTS)
@given(SHAPES)
def test_their_gradient_is_that_of_their_formula(layout, shape):
    assert torch.autograd.gradcheck(channel_moments, maps(shape, layout).requires_grad_())


def test_one_of_the_two_alone_has_a_gradient_too():
    drawn_maps = maps((2, 3, 4, 5)).requires_grad_()
    (slope,) = torch.autograd.grad(channel_moments(drawn_maps)[0].sum(), drawn_maps)
    assert torch.allclose(slope, torch.full_like(slope, 1 / 40))


def test_of_many_values_far_from_zero_the_variance_is_still_right():
    far = (100 + maps((64, 2, 40, 40))).float()
    _, variance = channel_moments(far)
    assert torch.allclose(variance, far.double().var((0, 2, 3), unbiased=False).float(), rtol=1e-3)
