import math

import pytest
import torch
import torch.nn.functional as F
from method_contract import LEARNING, MethodContract
from torch import nn
from workbenches import Trial, rng, same, snapshot, tiny_teacher

from dfkd.methods.augment import resized_crop
from dfkd.methods.cmi import SMALLEST, Cmi, CmiSettings, spatial_means
from dfkd.methods.generators import LatentGenerator, reinitialize
from dfkd.methods.losses import batch_norm_gap, one_hot
from dfkd.methods.settings import build
from dfkd.methods.shape import ImageShape

QUICK = {
    "batch_size": 7,  # divisible by no number of classes in these tests
    "synthesis_steps": 2,
    "warmup_rounds": 2,
    "rounds": 2,
    "latent": 4,
    "generator_width": 2,
    "projection": 5,
    "bank_size": 18,  # wraps within a batch
    "negatives": 10,
}
BOUNDED = {"pool_capacity": 20}
WITHOUT = {"cr_weight": 0.0}
NO_BN = WITHOUT | {"bn_weight": 0.0}


class TestCmi(MethodContract):
    method = Cmi
    quick = QUICK
    bounded = BOUNDED
    adversarial = NO_BN | {"one_hot_weight": 0.0}
    without_batch_norm = NO_BN


def trial(values=None, **bench):
    return Trial(Cmi, LEARNING | QUICK | (values or {}), **bench)


IMAGES = torch.rand(9, 1, 8, 8, generator=rng())
TARGET = torch.arange(9) % 3


def features_by_hook(teacher, images):
    """The spatial means of what each BatchNorm was given, [B, F], in float64."""
    found = []
    hooks = [
        m.register_forward_pre_hook(lambda m, x: found.append(x[0].double().mean((2, 3))))
        for m in teacher.network.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    teacher.logits(images)
    for hook in hooks:
        hook.remove()
    return torch.cat(found, dim=1)


# The generator


def weights(generator, kind):
    return torch.cat([m.weight.flatten() for m in generator.modules() if isinstance(m, kind)])


def test_a_fresh_generator_has_small_normal_weights():
    generator = LatentGenerator(50, ImageShape(3, 16, 16), 16)
    reinitialize(generator, rng())
    for kind, mean in ((nn.Linear, 0), (nn.Conv2d, 0), (nn.BatchNorm2d, 1)):
        drawn = weights(generator, kind)
        assert drawn.mean().item() == pytest.approx(mean, abs=0.01)
        assert drawn.std().item() == pytest.approx(0.02, rel=0.3)
    biases = [p for name, p in generator.named_parameters() if name.endswith("bias")]
    assert biases and not any(bias.any() for bias in biases)


def test_every_round_has_another_fresh_generator():
    started, drawn = trial(), []
    for seed in (0, 1, 0):
        started.method.begin(TARGET, rng(seed))
        drawn.append(weights(started.method.generator, nn.Linear | nn.Conv2d).detach().clone())
        started.run(range(1))
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_what_is_optimized_are_generator_noise_and_projection():
    started = trial()
    method, before = started.method, snapshot(started.method.head)
    canvas = method.begin(TARGET, rng())
    fresh = snapshot(method.generator)
    noise = canvas.optimizers[0].param_groups[0]["params"][-1]
    drawn = noise.detach().clone()
    images = canvas.render()
    canvas.step(method.loss(started.view(images, TARGET)))
    assert noise.shape == (9, 4) and not torch.equal(noise, drawn)
    assert not same(snapshot(method.generator), fresh) and not same(snapshot(method.head), before)


def test_the_projection_goes_on_learning_from_round_to_round():
    started, seen = trial(), []
    for epoch in range(3):
        started.run(range(epoch, epoch + 1))
        seen.append(snapshot(started.method.head))
    assert not same(seen[0], seen[1]) and not same(seen[1], seen[2])
    steps = {int(s["step"]) for s in started.method.head_adam.state_dict()["state"].values()}
    assert steps == {3 * 2 * 2}  # epochs, rounds, steps


def test_classes_are_drawn_at_random_and_put_in_order():
    started = trial({"batch_size": 300})
    one, two = (started.method.targets(rng(seed)) for seed in (0, 1))
    assert not torch.equal(one, two)
    assert torch.equal(one, one.sort().values)
    assert one.bincount(minlength=3).min() > 70


# The contrastive term


def test_features_are_the_means_over_places_of_all_batch_norm_inputs():
    teacher = tiny_teacher()
    found = spatial_means(teacher.look(IMAGES))
    assert found.shape == (9, 4 + 6)
    assert torch.allclose(found.double(), features_by_hook(teacher, IMAGES), atol=1e-5)


def term(started, images, shown, draws):
    """cr_weight L_cr of images of which the teacher is shown `shown` as the global view."""
    method = started.method
    method.images = images
    return method.contrastive(started.view(shown, TARGET, draws=draws))


def test_the_contrastive_term_is_the_published_formula():
    started = trial({"flip": False, "cr_temperature": 0.3, "negatives": 10})
    started.run(range(2))
    method, teacher, shown = started.method, started.bench.teacher, IMAGES.flip(0)
    found = term(started, IMAGES, shown, rng(3)).item()

    draws = rng(3)
    local = features_by_hook(teacher, resized_crop(IMAGES, SMALLEST, draws))
    past = method.bank.draw(10, draws).double()
    width = past.shape[1] // 2
    head = method.head.double()
    rows = F.normalize(head(torch.cat([local, past[:, :width]])), dim=1).tolist()
    whole = torch.cat([features_by_hook(teacher, shown), past[:, width:]])
    columns = F.normalize(head(whole), dim=1).tolist()
    losses = []
    for i, row in enumerate(rows):
        similar = [sum(a * b for a, b in zip(row, c, strict=True)) / 0.3 for c in columns]
        losses.append(math.log(sum(math.exp(s) for s in similar)) - similar[i])
    assert found == pytest.approx(sum(losses[:9]) / 9 + sum(losses[9:]) / 10, rel=1e-4)


def test_the_first_batch_is_contrasted_with_itself():
    started = trial()
    assert len(started.method.bank.rows) == 0
    assert 0 < term(started, IMAGES, IMAGES, rng()).item() < 2 * math.log(9) / 0.1


def test_the_global_views_of_the_term_get_no_gradient():
    images, shown = (IMAGES.clone().requires_grad_() for _ in range(2))
    term(trial(), images, shown, rng()).backward()
    assert images.grad.abs().max() > 0
    assert shown.grad is None or not shown.grad.any()


def test_local_views_are_parts_of_the_images_mirrored_only_where_that_is_allowed():
    right = torch.arange(8.0).expand(50, 1, 8, 8) / 8  # brighter to the right
    for flip in (True, False):
        views = trial({"flip": flip}).method.local_view(right, rng())
        slopes = views[..., 1:-1].diff(dim=3)
        assert slopes.abs().max() <= 1 / 8 + 1e-5
        assert bool((slopes < -1e-3).any()) is flip


def test_the_loss_without_the_term_is_that_of_every_inversion():
    weights = {"bn_weight": 3.0, "one_hot_weight": 0.7, "adversarial_weight": 0.0}
    started = trial(weights | WITHOUT)
    seen = started.bench.teacher.look(IMAGES)
    expected = 3.0 * batch_norm_gap(seen.moments, seen.running) + 0.7 * one_hot(seen.logits, TARGET)
    found = started.method.loss(started.view(IMAGES, TARGET))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def likeness(started, images):
    """Mean cosine similarity of different images, as teacher and projection see them."""
    features = spatial_means(started.bench.teacher.look(images))
    rows = F.normalize(started.method.head(features), dim=1)
    return ((rows @ rows.T).sum().item() - len(rows)) / (len(rows) * (len(rows) - 1))


def test_the_contrastive_term_makes_images_differ_that_were_alike():
    started = trial({"flip": False})
    images = (0.5 + 0.02 * torch.randn(9, 1, 8, 8, generator=rng())).requires_grad_()
    before = likeness(started, images)
    adam, draws = torch.optim.Adam([images], lr=0.03), rng()
    for _ in range(40):
        adam.zero_grad()
        term(started, images, images, draws).backward()
        adam.step()
    assert before > 0.9999 and likeness(started, images) < 0.95


# The bank


def test_the_bank_remembers_the_newest_images_up_to_its_size():
    started, sizes = trial(), []
    for epoch in range(3):
        started.run(range(epoch, epoch + 1))
        sizes.append(len(started.method.bank.rows))
    assert sizes == [14, 18, 18]


def test_the_bank_remembers_the_rounds_images_local_view_beside_global():
    started = trial({"shift": 0, "flip": False})
    best, *_ = started.method.invert(torch.arange(7) % 3, adversarial=True, rng=rng())
    local, whole = started.method.bank.rows.chunk(2, dim=1)
    expected = features_by_hook(started.bench.teacher, best)
    assert torch.allclose(whole.double(), expected, atol=1e-5)
    assert not torch.allclose(local, whole, atol=1e-3)
    assert not started.method.bank.rows.requires_grad


def test_without_the_term_there_is_neither_bank_nor_projection():
    started = trial(WITHOUT)
    started.run(range(2))
    assert started.method.synthesis_state().keys() == {"past", "rounds"}


# When things go wrong, and what was published


def test_a_projection_that_is_not_finite_is_replaced():
    started = trial()
    with torch.no_grad():
        started.method.head[0].weight.fill_(math.nan)
    (metrics,) = started.run(range(1))
    assert math.isfinite(metrics["generator_loss"])
    assert all(p.isfinite().all() for p in started.method.head.parameters())
    assert started.method.bank.rows.isfinite().all()


@pytest.mark.parametrize(("off", "on"), [("bn_weight", "cr_weight"), ("cr_weight", "bn_weight")])
def test_a_teacher_without_batch_norm_is_refused_unless_both_its_uses_are_off(off, on):
    teacher = tiny_teacher(name="convnet-4-nobn")
    settings = build(CmiSettings, {off: 0.0}, "test")
    (objection,) = Cmi.objections(settings, teacher)
    assert f"{on}=0" in objection


def test_a_pool_that_would_stay_empty_is_refused():
    settings = build(CmiSettings, {"rounds": 0, "warmup": 0}, "test")
    (objection,) = Cmi.objections(settings, tiny_teacher())
    assert "pool empty" in objection


def test_the_paper_preset_holds_the_published_numbers():
    settings = build(CmiSettings, Cmi.presets["paper"], "test")
    weights = (settings.bn_weight, settings.one_hot_weight, settings.adversarial_weight)
    assert weights == (1.0, 1.0, 0.5) and settings.bn_reduction == "sum"
    assert (settings.cr_weight, settings.cr_temperature) == (0.8, 0.1)
    assert (settings.bank_size, settings.negatives, settings.projection) == (40960, 4096, 256)
    assert (settings.batch_size, settings.synthesis_steps, settings.generator_lr) == (
        256,
        200,
        1e-3,
    )
