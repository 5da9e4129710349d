import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng

from dfkd.methods.generators import (
    LatentGenerator,
    NoisyLabelGenerator,
    NoisyLayers,
    Trunk,
    enlarged,
)
from dfkd.methods.shape import ImageShape

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
    assert trunk.seed_sizes == [(-(-pixels // 2**doublings),) * 2]


@pytest.mark.parametrize(("pixels", "seed"), [(32, 8), (64, 16), (224, 14)])
def test_the_first_map_is_as_large_as_in_the_reference(pixels, seed):
    assert Trunk(4, ImageShape(3, pixels, pixels), width=1).seed_sizes == [(seed, seed)]


def test_the_trunk_for_32_pixels_has_as_many_parameters_as_in_the_reference():
    seed = 1000 * 128 * 64 + 128 * 64
    maps = 2 * 128 + (128 * 128 * 9 + 2 * 128) + (128 * 64 * 9 + 2 * 64)
    trunk = Trunk(1000, ImageShape(3, 32, 32), width=64)
    assert sum(p.numel() for p in trunk.parameters()) == seed + maps + (64 * 3 * 9 + 3)


def test_a_trunk_renders_its_own_size_unless_others_are_asked_for():
    assert Trunk(4, ImageShape(3, 7, 5), width=1).sizes == ((7, 5),)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 3]), st.sampled_from([0, 1]))
def test_to_convolve_enlarged_maps_at_once_gives_what_one_after_the_other_gives(h, w, factor, odd):
    size = (factor * h - odd * (factor == 2), factor * w)
    maps = torch.randn(2, 3, h, w, generator=rng(), dtype=torch.float64).requires_grad_()
    layer = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False, dtype=torch.float64)
    expected = layer(F.interpolate(maps, size=size, mode="nearest"))
    found = enlarged(maps, size, layer)
    assert torch.allclose(found, expected)
    weights = torch.randn(found.shape, generator=rng(1), dtype=torch.float64)
    inputs = (maps, layer.weight)
    slopes = [torch.autograd.grad((y * weights).sum(), inputs) for y in (found, expected)]
    assert all(torch.allclose(a, b) for a, b in zip(*slopes, strict=True))


RESOLUTIONS = [(8, 8), (12, 8), (5, 3)]


def trunk(sizes=RESOLUTIONS):
    torch.manual_seed(0)
    return Trunk(4, ImageShape(3, 12, 8), width=2, sizes=sizes)


@pytest.mark.parametrize("which", range(3))
def test_each_of_several_sizes_is_rendered(which):
    assert trunk()(torch.rand(2, 4), which).shape == (2, 3, *RESOLUTIONS[which])


def test_several_sizes_share_the_layers_between_the_first_and_the_last():
    several = trunk()
    several(torch.rand(3, 4), 1).square().sum().backward()
    touched = {name for name, p in several.named_parameters() if p.grad is not None}
    own = {name for name, _ in several.named_parameters() if name.startswith(("seeds", "heads"))}
    expected = {f"{part}.1.{kind}" for part in ("seeds", "heads") for kind in ("weight", "bias")}
    assert touched & own == expected
    assert {name for name, _ in several.named_parameters()} - own <= touched


def test_one_size_renders_what_the_same_layers_render_among_several():
    several, alone = trunk(), trunk(sizes=RESOLUTIONS[1:2])
    weights = several.state_dict() | {
        f"{part}.0.{kind}": several.state_dict()[f"{part}.1.{kind}"]
        for part in ("seeds", "heads")
        for kind in ("weight", "bias")
    }
    alone.load_state_dict({name: weights[name] for name in alone.state_dict()})
    vectors = torch.rand(3, 4, generator=rng())
    assert torch.equal(alone(vectors), several(vectors, 1))


def test_large_and_small_sizes_of_one_trunk_double_equally_often():
    large = Trunk(4, ImageShape(3, 128, 128), width=1, sizes=[(128, 128), (32, 32)])
    assert large.seed_sizes == [(8, 8), (2, 2)]


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


def latent(classes=0):
    torch.manual_seed(0)
    return LatentGenerator(6, ImageShape(3, 7, 5), width=2, classes=classes)


def test_noise_is_drawn_from_the_standard_normal_distribution():
    noise = latent().draw(5000, rng())
    assert noise.shape == (5000, 6)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_noise_follows_its_stream():
    made = latent()
    assert torch.equal(made.draw(4, rng(1)), made.draw(4, rng(1)))
    assert not torch.equal(made.draw(4, rng(1)), made.draw(4, rng(2)))


def test_noise_becomes_images_of_the_shape():
    made = latent()
    images = made(made.draw(4, rng()))
    assert images.shape == (4, 3, 7, 5) and 0 <= images.min() < images.max() <= 1


def test_a_generator_that_is_told_a_class_makes_another_image_of_the_same_noise():
    made = latent(classes=2)
    noise = made.draw(2, rng())
    one, other = (made(noise, torch.tensor([label, 1])) for label in (0, 1))
    assert not torch.allclose(one[0], other[0], atol=1e-4)


def test_a_generator_that_knows_no_classes_does_not_care():
    made = latent()
    noise = made.draw(3, rng())
    assert torch.equal(made(noise), made(noise, torch.tensor([0, 1, 1])))


def test_embeddings_of_classes_learn():
    made = latent(classes=3)
    made(made.draw(4, rng()), torch.tensor([0, 1, 0, 1])).square().sum().backward()
    moved = made.classes.weight.grad.abs().sum(1)
    assert moved[0] > 0 and moved[1] > 0 and moved[2] == 0
