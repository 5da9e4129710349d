import math

import pytest
import torch
from method_contract import LEARNING, MethodContract
from workbenches import Trial, rng, tiny_teacher

from dfkd.methods.deepinversion import Deepinversion, DeepinversionSettings, Pixels, units
from dfkd.methods.losses import batch_norm_gap, layer_gaps, one_hot, total_variation
from dfkd.methods.settings import build
from dfkd.methods.shape import ImageShape

QUICK = {
    "batch_size": 7,  # divisible by no number of classes in these tests
    "synthesis_steps": 5,
    "warmup_rounds": 2,
    "rounds": 2,
    "bn_first_weight": 2.0,
    "tv_weight": 0.01,
    "l2_weight": 0.01,
    "pixel_lr": 0.1,
    "pixel_schedule": "cosine",
    "pixel_warmup": 1,
    "half_steps": 0.4,
    "jitter": 0.13,
}
BOUNDED = {"pool_capacity": 20}
NO_BN = {"bn_weight": 0.0}
ALONE = NO_BN | {"one_hot_weight": 0.0, "tv_weight": 0.0, "l2_weight": 0.0}
PLAIN = {"half_steps": 0.0, "pixel_schedule": "constant", "jitter": 0.0, "flip": False}


class TestDeepinversion(MethodContract):
    method = Deepinversion
    quick = QUICK
    bounded = BOUNDED
    adversarial = ALONE | {"adversarial_weight": 1.0}
    without_batch_norm = NO_BN


def trial(values=None, **bench):
    return Trial(Deepinversion, LEARNING | QUICK | (values or {}), **bench)


def canvas(values=None, count=7, **bench):
    return trial(values, **bench).method.begin(torch.zeros(count, dtype=torch.int64), rng())


def inverted(values, seed=0):
    """The images [B, channels, H, W] and the loss of one round."""
    started = trial(values)
    images, loss, _ = started.method.invert(torch.arange(7) % 3, adversarial=True, rng=rng(seed))
    return images, loss


def images(count=9):
    return torch.rand(count, 1, 8, 8, generator=rng())


TARGET = torch.arange(9) % 3


# Pixels


def test_images_start_as_normal_noise_in_the_teachers_units_as_far_as_an_image_can_hold_it():
    teacher = tiny_teacher(shape := ImageShape(3, 8, 8))
    teacher.network.mean.copy_(torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1))
    noise = torch.randn(7, 3, 8, 8, generator=rng())
    expected = (teacher.network.mean + 0.25 * noise).clamp(0, 1)
    started = canvas(PLAIN, teacher=teacher, shape=shape).render()
    assert torch.allclose(started, expected, atol=1e-6)


def test_a_teacher_that_takes_0_to_255_is_shown_noise_around_gray_not_black():
    teacher = tiny_teacher(shape := ImageShape(3, 8, 8))
    teacher.network.mean.fill_(0.0)
    teacher.network.std.fill_(1 / 255)
    noise = torch.randn(7, 3, 8, 8, generator=rng())
    started = canvas(PLAIN, teacher=teacher, shape=shape).render()
    assert torch.allclose(started, (0.5 + 0.25 * noise).clamp(0, 1), atol=1e-6)


def test_a_first_step_moves_pixels_by_the_learning_rate_in_quarters_of_0_to_255_there():
    teacher = tiny_teacher(shape := ImageShape(3, 8, 8))
    teacher.network.std.fill_(1 / 255)
    started = canvas(PLAIN, teacher=teacher, shape=shape)
    before = started.render().detach()
    started.step(started.render().sum())
    inside = (before > 0.1) & (before < 1.0)
    expected = torch.tensor(0.25 * QUICK["pixel_lr"])
    assert torch.allclose((before - started.render())[inside], expected, atol=1e-5)


def test_pixels_stay_in_range_however_far_a_step_goes():
    started = canvas(PLAIN | {"pixel_lr": 100.0})
    for sign, end in ((1, 0.0), (-1, 1.0)):
        started.step(sign * started.render().sum())
        assert torch.allclose(started.render(), torch.tensor(end), atol=1e-6)


def test_a_step_lowers_the_loss():
    started = canvas(PLAIN)
    before = (started.render() - 0.3).square().sum()
    started.step(before)
    assert (started.render() - 0.3).square().sum() < before


def test_adam_moves_normalized_pixels_by_the_learning_rate():
    started = canvas(PLAIN | {"pixel_lr": 0.1})
    before = started.values.detach().clone()
    started.step(started.render().sum())
    inside = before > before.min() + 0.1
    assert torch.allclose((before - started.values)[inside], torch.tensor(0.1), atol=1e-5)


# Half size


def sizes_seen(values):
    """The height and width of what the teacher is shown, step by step."""
    started, sizes = trial(values), []
    started.bench.teacher.network.register_forward_pre_hook(
        lambda network, inputs: sizes.append(tuple(inputs[0].shape[2:]))
    )
    started.method.invert(torch.arange(7) % 3, adversarial=False, rng=rng())
    return sizes


@pytest.mark.parametrize(("share", "halves"), [(0.0, 0), (0.4, 2), (0.5, 2), (0.9, 4)])
def test_the_first_share_of_the_steps_is_at_half_size(share, halves):
    assert sizes_seen({"half_steps": share}) == [(4, 4)] * halves + [(8, 8)] * (5 - halves)


def test_half_a_pixel_is_averaged_as_one():
    started = canvas({"half_steps": 0.4}, shape=ImageShape(1, 7, 5))
    assert started.render().shape == (7, 1, 4, 3)
    whole = started.values * 0.25 + 0.5
    assert torch.allclose(started.render()[:, :, 0, 0], whole[:, :, :2, :2].mean((2, 3)))
    assert torch.allclose(started.render()[:, :, 3, 2], whole[:, :, 6, 4])


def test_images_of_half_size_are_never_the_rounds_however_low_their_loss():
    started = trial({"half_steps": 0.6})
    started.method.loss = lambda view: (view.images * 0).sum() + view.images.shape[2]
    best, loss, _ = started.method.invert(torch.arange(7) % 3, adversarial=False, rng=rng())
    assert best.shape == (7, 1, 8, 8) and loss == 8


def test_adam_is_new_at_full_size_and_only_then():
    started, seen = canvas({"half_steps": 0.4}), []
    for _ in range(5):
        started.step(started.render().sum())
        seen.append(started.optimizers[0])
    assert len({id(adam) for adam in seen[:2]}) == len({id(adam) for adam in seen[2:]}) == 1
    assert seen[1] is not seen[2]


# The learning rate


def learning_rates(**values):
    settings = build(DeepinversionSettings, {"pixel_lr": 1.0, **values}, "test")
    started = Pixels(settings, units(tiny_teacher().network), torch.zeros(2, 1, 8, 8))
    rates = []
    for _ in range(settings.synthesis_steps):
        started.step(started.render().sum())
        rates.append(started.optimizers[0].param_groups[0]["lr"])
    return rates


def test_the_learning_rate_is_constant_unless_asked_otherwise():
    assert learning_rates(synthesis_steps=4, half_steps=0.5) == [1.0] * 4


def test_the_cosine_rises_over_the_warm_up_and_falls_to_zero():
    falling = [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    rates = learning_rates(synthesis_steps=6, pixel_schedule="cosine", pixel_warmup=2)
    assert rates == pytest.approx([0.5, 1.0, *falling])


def test_the_cosine_starts_again_at_full_size():
    half = learning_rates(synthesis_steps=3, pixel_schedule="cosine", pixel_warmup=1)
    both = {"synthesis_steps": 6, "half_steps": 0.5}
    assert learning_rates(pixel_schedule="cosine", pixel_warmup=1, **both) == half + half


def test_a_warm_up_longer_than_the_round_is_all_there_is():
    rates = learning_rates(synthesis_steps=3, pixel_schedule="cosine", pixel_warmup=10)
    assert rates == pytest.approx([0.1, 0.2, 0.3])


# The loss


def loss(**values):
    none = dict.fromkeys(("bn_weight", "one_hot_weight", "tv_weight", "l2_weight"), 0.0)
    started = trial(none | {"bn_first_weight": 1.0} | values)
    return started.method.loss(started.view(images(), TARGET)).item()


def test_the_loss_is_the_weighted_sum_of_its_four_terms():
    teacher = tiny_teacher()
    seen, normalized = teacher.look(images()), (images() - 0.5) / 0.25
    norms = [math.sqrt(sum(v * v for v in row)) for row in normalized.flatten(1).tolist()]
    expected = (
        3.0 * batch_norm_gap(seen.moments, teacher.running)
        + 0.7 * one_hot(seen.logits, TARGET)
        + 0.2 * total_variation(normalized)
        + 0.4 * sum(norms) / 9
    )
    found = loss(bn_weight=3.0, one_hot_weight=0.7, tv_weight=0.2, l2_weight=0.4)
    assert found == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("mean", 2)])
def test_the_first_layer_counts_more_if_asked(reduction, divisor):
    teacher = tiny_teacher()
    gaps = layer_gaps(teacher.look(images()).moments, teacher.running)
    once, thrice = (
        loss(bn_weight=1.0, bn_first_weight=weight, bn_reduction=reduction) for weight in (1, 3)
    )
    assert once == pytest.approx(sum(gaps).item() / divisor, rel=1e-5)
    assert thrice - once == pytest.approx(2 * gaps[0].item() / divisor, rel=1e-4)


def test_the_past_does_not_matter_by_default():
    started = trial({"rounds": 1, "warmup_rounds": 1})
    view = started.view(images(), TARGET)
    before = started.method.loss(view)
    started.run(range(2))
    assert started.method.loss(view) == before


LONGER = PLAIN | {"synthesis_steps": 40}


def test_total_variation_makes_smoother_images():
    rough, smooth = (inverted(LONGER | {"tv_weight": weight})[0] for weight in (0.0, 1.0))
    assert total_variation(smooth) < 0.7 * total_variation(rough)


def test_the_norm_draws_pixels_to_the_middle_of_the_teachers_range():
    far, near = (inverted(LONGER | {"l2_weight": weight})[0] - 0.5 for weight in (0.0, 10.0))
    assert near.norm() < 0.7 * far.norm()


def test_synthesis_makes_the_teacher_see_the_wanted_classes():
    started = trial(PLAIN | {"synthesis_steps": 60, "bn_weight": 0.0, "tv_weight": 0.0})
    started.run(range(1))
    found = started.bench.teacher.logits(started.method.pool.images / 255).argmax(1)
    assert torch.equal(found, started.method.pool.labels)


def test_synthesis_brings_statistics_near_those_that_the_teacher_remembers():
    teacher = tiny_teacher()
    made, _ = inverted(LONGER | {"one_hot_weight": 0.0, "tv_weight": 0.0, "l2_weight": 0.0})
    noise = canvas(PLAIN).render()
    gaps = [batch_norm_gap(teacher.look(x).moments, teacher.running) for x in (made, noise)]
    assert gaps[0] < 0.3 * gaps[1]


# What the teacher is shown


def test_the_teacher_is_shown_rolls_of_the_images_and_never_black_edges():
    started = trial({"jitter": 0.25, "flip": False, "shift": 3})
    shown = started.method.augment(images(), rng())
    moves = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
    for before, after in zip(images(), shown, strict=True):
        assert any(torch.equal(before.roll(move, (1, 2)), after) for move in moves)
    assert not torch.equal(shown, images())


def test_images_are_mirrored_only_where_that_is_allowed():
    one = images(1).repeat(30, 1, 1, 1)
    for flip, kinds in ((True, 2), (False, 1)):
        shown = trial({"jitter": 0.0, "flip": flip}).method.augment(one, rng())
        assert len(shown.unique(dim=0)) == kinds


# Schedule and presets


def test_without_rounds_all_images_are_made_before_the_student_learns():
    metrics = trial({"warmup": 2, "warmup_rounds": 3, "rounds": 0}).run(range(4))
    assert [m["images_made"] for m in metrics] == [21, 21, 0, 0]


def test_the_paper_preset_sums_over_layers_and_synthesizes_before_the_student_learns():
    settings = build(DeepinversionSettings, Deepinversion.presets["paper"], "test")
    assert (settings.bn_reduction, settings.bn_weight, settings.rounds) == ("sum", 10.0, 0)
    assert (settings.batch_size, settings.synthesis_steps, settings.pixel_lr) == (256, 2000, 0.05)
    assert settings.tv_weight == 2.5e-5 and int(32 * settings.jitter) == 2


def test_the_imagenet_preset_takes_two_thousand_steps_at_half_size_and_one_thousand_at_full():
    settings = build(DeepinversionSettings, Deepinversion.presets["imagenet"], "test")
    pixels = Pixels(settings, units(tiny_teacher().network), torch.zeros(2, 1, 8, 8))
    assert (pixels.half, settings.synthesis_steps - pixels.half) == (2000, 1000)
    assert (settings.bn_weight, settings.bn_first_weight) == (0.01, 10.0)
    assert int(224 * settings.jitter) == 30 and int(112 * settings.jitter) == 15
