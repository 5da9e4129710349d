import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng

from dfkd.methods.generators import ImageShape, NoisyLabelGenerator, NoisyLayers, Trunk

SIZES = st.integers(1, 40) | st.integers(90, 112)


@given(SIZES, SIZES, st.sampled_from([1, 3]))
def test_images_have_the_size_that_is_asked_for(height, width, channels):
    trunk = Trunk(4, ImageShape(channels, height, width), width=1)
    assert trunk(torch.rand(2, 4)).shape == (2, channels, height, width)


def test_images_lie_in_the_unit_interval_whatever_the_input():
    images = Trunk(4, ImageShape(1, 8, 8), width=3)(1e4 * torch.randn(9, 4, generator=rng()))
    assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize(("pixels", "doublings"), [(8, 2), (32, 2), (96, 2), (97, 4), (224, 4)])
def test_large_images_take_four_doublings_and_others_two(pixels, doublings):
    trunk = Trunk(4, ImageShape(3, pixels, pixels), width=1)
    assert trunk.seed_size == (-(-pixels // 2**doublings),) * 2


@pytest.mark.parametrize(("pixels", "seed"), [(32, 8), (64, 16), (224, 14)])
def test_the_first_map_is_as_large_as_in_the_reference(pixels, seed):
    assert Trunk(4, ImageShape(3, pixels, pixels), width=1).seed_size == (seed, seed)


def test_the_trunk_for_32_pixels_has_as_many_parameters_as_in_the_reference():
    seed = 1000 * 128 * 64 + 128 * 64
    maps = 2 * 128 + (128 * 128 * 9 + 2 * 128) + (128 * 64 * 9 + 2 * 64)
    trunk = Trunk(1000, ImageShape(3, 32, 32), width=64)
    assert sum(p.numel() for p in trunk.parameters()) == seed + maps + (64 * 3 * 9 + 3)


@given(st.integers(1, 20), st.integers(1, 8))
def test_noisy_layers_are_a_loop_over_linear_layers(batch, layers):
    noisy = NoisyLayers(layers, inputs=5, outputs=7, std=1.0)
    noisy.redraw(rng())
    noisy.bias.data.normal_(generator=rng(1))
    rows = torch.randn(batch, 5, generator=rng(2))
    slices = rows.split(math.ceil(batch / layers))
    weights = zip(noisy.weight, noisy.bias, strict=True)
    outputs = [F.linear(s, w.T, b[0]) for s, (w, b) in zip(slices, weights, strict=False)]
    assert torch.allclose(noisy(rows), torch.cat(outputs), atol=1e-5)


@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
def test_redrawn_weights_have_the_standard_deviation_that_is_asked_for(std):
    noisy = NoisyLayers(2, inputs=100, outputs=200, std=std)
    noisy.redraw(rng())
    assert noisy.weight.std().item() == pytest.approx(std, rel=0.02)
    assert abs(noisy.weight.mean()) < 0.02 * std


def test_redrawn_biases_are_zero():
    noisy = NoisyLayers(2, inputs=3, outputs=4, std=1.0)
    noisy.redraw(rng())
    assert noisy.bias.count_nonzero() == 0


def test_a_redraw_follows_its_stream():
    noisy, draws = NoisyLayers(2, inputs=3, outputs=4, std=1.0), []
    for seed in (0, 0, 1):
        noisy.redraw(rng(seed))
        draws.append(noisy.weight.clone())
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_noisy_layers_still_learn_after_a_redraw():
    noisy = NoisyLayers(2, inputs=3, outputs=4, std=1.0)
    noisy.redraw(rng())
    noisy(torch.rand(4, 3)).sum().backward()
    assert noisy.weight.grad is not None and noisy.bias.grad is not None


def generator(layers, *, embeddings=None):
    embeddings = torch.randn(3, 5, generator=rng(1)) if embeddings is None else embeddings
    torch.manual_seed(0)
    made = NoisyLabelGenerator(
        embeddings,
        NoisyLayers(layers, embeddings.shape[1], 6, 1.0),
        Trunk(6, ImageShape(1, 8, 8), width=2),
    )
    made.noisy.redraw(rng())
    return made


def test_one_noisy_layer_makes_one_image_of_each_class():
    images = generator(layers=1)(torch.tensor([0, 1, 2, 0, 1, 2]))
    assert torch.allclose(images[:3], images[3:], atol=1e-6)


def test_another_noisy_layer_makes_another_image_of_the_same_class():
    images = generator(layers=2)(torch.tensor([0, 1, 2, 0, 1, 2]))
    assert (images[:3] - images[3:]).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_different_classes_become_different_images():
    images = generator(layers=1)(torch.tensor([0, 1, 2]))
    assert (images[0] - images[1]).abs().max() > 1e-3


def test_embeddings_that_lie_close_together_are_spread_to_unit_variance():
    close = 1 + 0.1 * torch.randn(20, 50, generator=rng())
    made = generator(layers=1, embeddings=close)
    spread = made.spread(made.embeddings)
    assert torch.allclose(spread.var(0, unbiased=False), torch.ones(50), atol=0.01)


def test_gradients_reach_every_parameter_of_the_generator():
    made = generator(layers=2)
    made(torch.tensor([0, 1, 2, 0, 1, 2])).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_embeddings_do_not_learn():
    made = generator(layers=1)
    assert not made.embeddings.requires_grad and "embeddings" not in made.state_dict()
