import math

import pytest
import torch
from workbenches import rng, same, snapshot

from dfkd.methods.autoencoder import Autoencoder, Encoder, Replay, code_divergence
from dfkd.methods.random_streams import global_stream
from dfkd.methods.shape import ImageShape

SHAPES = [(1, 8, 8), (3, 8, 12), (3, 7, 5), (1, 9, 4), (3, 5, 5), (1, 32, 31)]


def autoencoder(shape=(1, 8, 8), latent=6, width=4):
    with global_stream("cpu", "autoencoder"):
        return Autoencoder(ImageShape(*shape), width, latent)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("count", [2, 5])
def test_images_of_any_size_are_remembered_at_that_size(shape, count):
    memory = autoencoder(shape)
    images = torch.rand(count, *shape, generator=rng())
    mean, log_variance = memory.encoder(images)
    assert mean.shape == log_variance.shape == (count, 6)
    remembered, divergence = memory(images, rng())
    assert remembered.shape == images.shape
    assert 0 <= remembered.min() < remembered.max() <= 1
    assert divergence.shape == () and divergence > 0


def test_every_weight_of_both_halves_learns_from_the_images():
    memory = autoencoder()
    images = torch.rand(5, 1, 8, 8, generator=rng())
    remembered, divergence = memory(images, rng())
    ((remembered - images).square().mean() + divergence).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in memory.parameters())
    assert all(p.grad.any() for name, p in memory.named_parameters() if "mean" in name)


def test_the_same_generator_gives_the_same_memory_and_another_one_another():
    memory, images = autoencoder(), torch.rand(5, 1, 8, 8, generator=rng())
    one, two, other = (memory(images, rng(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_codes_are_drawn_around_their_mean_with_the_encoders_variance():
    memory = autoencoder(latent=3).eval()
    for layer, bias in ((memory.encoder.mean, 5.0), (memory.encoder.log_variance, math.log(0.04))):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, bias)
    codes = []
    memory.decoder.register_forward_pre_hook(lambda _, inputs: codes.append(inputs[0]))
    memory(torch.rand(2000, 1, 8, 8, generator=rng()), rng(1))
    assert codes[0].mean(0).tolist() == pytest.approx([5.0] * 3, abs=0.03)
    assert codes[0].std(0).tolist() == pytest.approx([0.2] * 3, rel=0.1)


def test_an_encoder_without_doubt_is_decoded_at_its_mean():
    memory, images = autoencoder().eval(), torch.rand(4, 1, 8, 8, generator=rng())
    torch.nn.init.zeros_(memory.encoder.log_variance.weight)
    torch.nn.init.constant_(memory.encoder.log_variance.bias, -200.0)
    assert torch.equal(memory(images, rng())[0], memory.decoder(memory.encoder(images)[0]))


def test_the_encoder_halves_the_image_twice():
    encoder = Encoder(ImageShape(3, 7, 5), 4, 6)
    assert encoder.mean.in_features == 2 * 4 * 2 * 2
    assert encoder.layers(torch.rand(2, 3, 7, 5)).shape == (2, 2 * 4 * 2 * 2)


# The divergence of codes


def test_codes_that_are_standard_normal_diverge_by_nothing():
    assert code_divergence(torch.zeros(3, 4), torch.zeros(3, 4)).item() == 0


def test_the_divergence_is_summed_over_a_code_and_averaged_over_images():
    mean, log_variance = torch.randn(2, 5, 3, generator=rng(), dtype=torch.float64)
    pairs = list(zip(mean.flatten().tolist(), log_variance.flatten().tolist(), strict=True))
    # KL(N(m, v) || N(0, 1)) = (m^2 + v - 1 - ln v) / 2
    expected = sum((m * m + math.exp(s) - 1 - s) / 2 for m, s in pairs) / 5
    assert code_divergence(mean, log_variance).item() == pytest.approx(expected)


def test_the_divergence_is_that_of_torchs_own_normal_distributions():
    mean, log_variance = torch.randn(2, 5, 3, generator=rng(), dtype=torch.float64)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    gaps = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(code_divergence(mean, log_variance), gaps.sum(1).mean())


# Replay


def test_replay_shows_what_the_decoder_makes_of_the_codes_it_is_given():
    memory, asked = autoencoder().eval(), []

    def draw(count, draws):
        asked.append(count)
        return memory.decoder.draw(count, draws)

    batch = Replay(memory, draw).sample(7, rng())
    assert asked == [7]
    assert torch.equal(batch.images, memory.recalled(memory.decoder.draw(7, rng())))


def test_replayed_images_have_neither_classes_nor_gradients():
    memory = autoencoder()
    before = snapshot(memory.encoder)
    batch = Replay(memory, memory.decoder.draw).sample(7, rng())
    assert batch.labels is None and batch.weights is None and batch.index is None
    assert not batch.images.requires_grad
    assert same(snapshot(memory.encoder), before)


def test_what_is_recalled_does_not_depend_on_what_else_is():
    memory = autoencoder()
    codes = memory.decoder.draw(7, rng())
    assert torch.allclose(memory.recalled(codes)[:2], memory.recalled(codes[:2]), atol=1e-6)
    assert memory.decoder.training
