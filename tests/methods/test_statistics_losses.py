"""The losses over statistics of BatchNorm layers, and over images alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng

from dfkd.methods.losses import (
    batch_norm_divergence,
    batch_norm_gap,
    layer_gaps,
    total_variation,
)


def moments(mean, variance):
    return torch.tensor(mean), torch.tensor(variance)


def test_the_batch_norm_gap_is_a_norm_and_not_its_square():
    batch, running = [moments([3.0, 4.0], [1.0, 1.0])], [moments([0.0, 0.0], [1.0, 1.0])]
    assert batch_norm_gap(batch, running).item() == pytest.approx(5)


def test_the_batch_norm_gap_adds_means_and_variances():
    batch, running = [moments([3.0, 4.0], [1.0, 9.0])], [moments([0.0, 0.0], [7.0, 1.0])]
    assert batch_norm_gap(batch, running).item() == pytest.approx(5 + 10)


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 5 + 10), ("mean", (5 + 10) / 2)])
def test_the_batch_norm_gap_is_reduced_over_layers_as_asked(reduction, expected):
    batch = [moments([3.0, 4.0], [1.0, 1.0]), moments([10.0], [1.0])]
    running = [moments([0.0, 0.0], [1.0, 1.0]), moments([0.0], [1.0])]
    assert batch_norm_gap(batch, running, reduction).item() == pytest.approx(expected)


def test_the_batch_norm_gap_of_equal_statistics_is_zero():
    layers = [moments([3.0, 4.0], [1.0, 2.0])] * 3
    assert batch_norm_gap(layers, layers) == 0


def test_the_batch_norm_gap_of_equal_statistics_has_a_finite_gradient():
    mean, variance = moments([3.0, 4.0], [1.0, 2.0])
    mean.requires_grad_()
    batch_norm_gap([(mean, variance)], [(mean.detach().clone(), variance)]).backward()
    assert mean.grad.isfinite().all()


def test_the_batch_norm_gap_refuses_statistics_of_another_network():
    layer = moments([3.0], [1.0])
    with pytest.raises(ValueError, match="do not match"):
        batch_norm_gap([layer, layer], [layer])


def test_the_gaps_layer_by_layer_sum_to_the_gap():
    batch = [moments([3.0, 4.0], [1.0, 1.0]), moments([10.0], [1.0])]
    running = [moments([0.0, 0.0], [1.0, 1.0]), moments([0.0], [3.0])]
    assert [gap.item() for gap in layer_gaps(batch, running)] == pytest.approx([5, 12])


def gaussian_divergence(mean, variance, kept_mean, kept_variance):
    """KL(N(mean, variance) || N(kept)) by numerical integration of its definition."""
    deviation = math.sqrt(variance)
    x = np.linspace(mean - 12 * deviation, mean + 12 * deviation, 20_001)
    log_p = -((x - mean) ** 2) / (2 * variance) - np.log(2 * np.pi * variance) / 2
    log_q = -((x - kept_mean) ** 2) / (2 * kept_variance) - np.log(2 * np.pi * kept_variance) / 2
    return np.trapezoid(np.exp(log_p) * (log_p - log_q), x)


GAUSSIANS = [(0.3, 1.2, -0.5, 0.7), (2.0, 0.1, 2.0, 1.5), (0.0, 3.0, 1.0, 3.0)]


def doubles(rows, *columns):
    return tuple(torch.tensor([row[c] for row in rows], dtype=torch.float64) for c in columns)


def test_the_batch_norm_divergence_is_that_of_gaussians_summed_over_channels():
    batch, running = [doubles(GAUSSIANS, 0, 1)], [doubles(GAUSSIANS, 2, 3)]
    expected = sum(gaussian_divergence(*row) for row in GAUSSIANS)
    assert batch_norm_divergence(batch, running).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", 2), ("sum", 1)])
def test_the_batch_norm_divergence_is_reduced_over_layers_as_asked(reduction, divisor):
    one, two = GAUSSIANS[:1], GAUSSIANS[1:]
    batch = [doubles(layer, 0, 1) for layer in (one, two)]
    running = [doubles(layer, 2, 3) for layer in (one, two)]
    expected = sum(gaussian_divergence(*row) for row in GAUSSIANS) / divisor
    found = batch_norm_divergence(batch, running, reduction)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 2**32))
def test_the_batch_norm_divergence_is_zero_only_where_statistics_agree(seed):
    mean, variance = torch.rand(2, 4, generator=rng(seed)) + 0.1
    kept = [(mean.clone(), variance.clone())]
    assert batch_norm_divergence([(mean, variance)], kept).item() == pytest.approx(0, abs=1e-6)
    assert batch_norm_divergence([(mean, variance * 1.5)], kept) > 0.1
    assert batch_norm_divergence([(mean + 0.5, variance)], kept) > 0.1


def test_the_batch_norm_divergence_of_a_dead_channel_has_a_finite_gradient():
    variance = torch.zeros(1, requires_grad=True)
    loss = batch_norm_divergence([(torch.zeros(1), variance)], [moments([0.0], [1.0])])
    loss.backward()
    assert loss.isfinite() and variance.grad.isfinite().all()


def test_total_variation_is_the_root_of_squared_differences_in_four_directions():
    images = torch.randn(2, 3, 4, 5, generator=rng(), dtype=torch.float64)
    squares = dict.fromkeys(((0, 1), (1, 0), (1, 1), (1, -1)), 0.0)
    for b, c, y, x in np.ndindex(*images.shape):
        for down, right in squares:
            if y + down < 4 and 0 <= x + right < 5:
                gap = images[b, c, y + down, x + right] - images[b, c, y, x]
                squares[down, right] += gap.item() ** 2
    expected = sum(math.sqrt(square) for square in squares.values())
    assert total_variation(images).item() == pytest.approx(expected)


def test_total_variation_of_a_step_is_counted_in_three_directions():
    image = torch.zeros(1, 1, 4, 4)
    image[..., 2:] = 1.0  # 4 steps to the right, 3 along each diagonal, none down
    assert total_variation(image).item() == pytest.approx(2 + 2 * math.sqrt(3), rel=1e-6)


def test_total_variation_of_a_flat_image_is_zero_and_flat():
    images = torch.full((2, 1, 4, 4), 0.5, requires_grad=True)
    total_variation(images).backward()
    assert total_variation(images) == 0 and images.grad.count_nonzero() == 0


@pytest.mark.parametrize("mirror", [2, 3])
def test_total_variation_does_not_care_for_mirrors(mirror):
    images = torch.rand(2, 1, 6, 4, generator=rng())
    mirrored = total_variation(images.flip(mirror))
    assert mirrored.item() == pytest.approx(total_variation(images).item(), rel=1e-6)
