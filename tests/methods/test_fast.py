import copy
import math
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from method_contract import LEARNING, MethodContract
from torch import nn
from workbenches import Trial, rng, same, snapshot

from dfkd.methods.errors import TrialFailed
from dfkd.methods.fast import Fast, FastSettings, add_difference, add_gradient
from dfkd.methods.settings import build

QUICK = {
    "batch_size": 7,  # divisible by no number of classes in these tests
    "synthesis_steps": 2,
    "warmup_rounds": 2,
    "rounds": 2,
    "latent": 4,
    "generator_width": 2,
    "reset_epoch": 2,
}
STILL = {"shift": 0, "flip": False}
TARGET = torch.arange(9) % 3
METAS = ("fomaml", "reptile", "none")


class TestFast(MethodContract):
    method = Fast
    quick = QUICK
    bounded: ClassVar = {"pool_capacity": 20}
    adversarial: ClassVar = {"bn_weight": 0.0, "one_hot_weight": 0.0}
    without_batch_norm: ClassVar = {"bn_weight": 0.0}


class Diary(Fast):
    """Writes down each round's copy, and before each inner step theta, the copy and the images."""

    def __init__(self, settings, bench):
        super().__init__(settings, bench)
        self.copies, self.thetas, self.fasts, self.shows = [], [], [], []

    def begin(self, target, rng):
        canvas = super().begin(target, rng)
        self.copies.append(canvas.fast)
        return canvas

    def loss(self, view):
        self.thetas.append(snapshot(self.generator))
        self.fasts.append(snapshot(self.copies[-1]))
        self.shows.append(view.images.detach())
        return super().loss(view)


def trial(method=Diary, values=None, **bench):
    return Trial(method, LEARNING | QUICK | STILL | (values or {}), **bench)


def weights(generator):
    return torch.cat([p.detach().flatten() for p in generator.parameters()])


def gradients(generator):
    return torch.cat([p.grad.flatten() for p in generator.parameters()])


def inverted(values, rounds=1):
    """A method after a round, and its weights before."""
    started = trial(values=values)
    before = weights(started.method.generator)
    for seed in range(rounds):
        started.method.invert(TARGET, adversarial=False, rng=rng(seed))
    return started.method, before


# What an outer gradient is


def pair():
    """Two small networks; the parameters' names say nothing, their order does."""
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    first.weight.data, first.bias.data = torch.tensor([[1.0, 2.0]]), torch.tensor([3.0])
    second.weight.data, second.bias.data = torch.tensor([[0.5, 4.0]]), torch.tensor([3.0])
    return first, second


def test_gradients_are_added_parameter_by_parameter():
    onto, source = pair()
    source.weight.grad, source.bias.grad = torch.tensor([[1.0, -2.0]]), torch.tensor([5.0])
    add_gradient(onto, source)
    add_gradient(onto, source)
    assert onto.weight.grad.tolist() == [[2.0, -4.0]] and onto.bias.grad.tolist() == [10.0]
    assert source.weight.grad.tolist() == [[1.0, -2.0]]


def test_an_added_gradient_is_a_copy_and_none_adds_nothing():
    onto, source = pair()
    source.weight.grad = torch.ones(1, 2)
    add_gradient(onto, source)
    source.weight.grad.zero_()
    assert onto.weight.grad.tolist() == [[1.0, 1.0]] and onto.bias.grad is None


def test_the_difference_that_is_added_points_away_from_where_the_copy_went():
    onto, source = pair()
    onto.bias.grad = torch.tensor([7.0])
    add_difference(onto, source, 10.0)
    assert onto.weight.grad.tolist() == [[5.0, -20.0]]  # 10 (theta - theta')
    assert onto.bias.grad.tolist() == [7.0]
    assert onto.weight.tolist() == [[1.0, 2.0]] and not onto.weight.grad.requires_grad


def test_first_order_maml_sums_the_gradients_of_all_inner_steps():
    values = {"synthesis_steps": 3, "generator_lr": 0.01, "latent_lr": 0.02}
    started = trial(Fast, values)
    method = started.method
    slow, noise = copy.deepcopy(method.generator), method.generator.draw(9, rng(3))
    method.invert(TARGET, adversarial=True, rng=rng(3))
    method.statistics.forget()
    noise.requires_grad_()
    adam = torch.optim.Adam(
        [{"params": slow.parameters(), "lr": 0.01}, {"params": [noise], "lr": 0.02}],
        betas=(0.5, 0.999),
    )
    total, single = 0, []
    for _ in range(3):
        adam.zero_grad()
        with started.bench.student.frozen():
            method.loss(started.view(slow(noise), TARGET)).backward()
        single.append(gradients(slow).clone())
        total = total + single[-1]
        adam.step()
    found = gradients(method.generator)
    assert torch.allclose(found, total, atol=1e-5 * total.abs().max().item())
    assert not torch.allclose(found, single[-1], rtol=0.1)


def test_every_round_has_an_outer_gradient_of_its_own():
    started = trial(Fast, {"generator_lr": 1e-12, "latent_lr": 0.0, "bn_momentum": 0.0})
    found = []
    for _ in range(2):
        started.method.invert(TARGET, adversarial=False, rng=rng(3))
        found.append(gradients(started.method.generator).clone())
    assert torch.allclose(*found, atol=1e-4 * found[0].abs().max().item())


# What becomes of theta


def test_reptiles_gradient_is_its_gain_times_the_way_back():
    method, before = inverted({"meta": "reptile", "reptile_gain": 5.0, "generator_lr": 0.01})
    expected = 5 * (before - weights(method.copies[0]))
    assert torch.allclose(gradients(method.generator), expected, atol=1e-6)


def test_reptile_moves_theta_to_where_the_copy_went():
    method, before = inverted({"meta": "reptile", "generator_lr": 0.01, "synthesis_steps": 4})
    way = weights(method.copies[0]) - before
    step = weights(method.generator) - before
    clear = way.abs() > 1e-4
    assert clear.float().mean() > 0.5
    assert torch.equal(step[clear].sign(), way[clear].sign())


def test_first_order_maml_moves_theta_down_the_summed_gradient():
    method, before = inverted({"meta": "fomaml", "generator_lr": 0.01, "synthesis_steps": 4})
    slope, step = gradients(method.generator), weights(method.generator) - before
    clear = slope.abs() > 1e-4 * slope.abs().max()
    assert torch.equal(step[clear].sign(), -slope[clear].sign())
    # the first step of Adam is as long as its learning rate: K times the inner one
    assert step[clear].abs().max().item() == pytest.approx(4 * 0.01, rel=1e-3)


def test_without_meta_learning_theta_stays_and_every_round_begins_there():
    method, before = inverted({"meta": "none", "generator_lr": 0.01}, rounds=3)
    assert torch.equal(weights(method.generator), before)
    assert all(not torch.equal(weights(copied), before) for copied in method.copies)


@pytest.mark.parametrize("meta", ["fomaml", "reptile"])
def test_with_meta_learning_every_round_moves_theta(meta):
    thetas = [weights(inverted({"meta": meta}, rounds)[0].generator) for rounds in range(4)]
    assert all((a - b).abs().max() > 1e-4 for a, b in pairwise(thetas))


@pytest.mark.parametrize("meta", METAS)
def test_within_a_round_a_copy_is_trained_and_theta_is_not(meta):
    method, _ = inverted({"meta": meta, "synthesis_steps": 4})
    assert all(same(theta, method.thetas[0]) for theta in method.thetas)
    parameters = dict(method.generator.named_parameters())
    for name in parameters:
        assert torch.equal(method.fasts[0][name], method.thetas[0][name])
    for one, two in pairwise(method.fasts):
        assert any(not torch.equal(one[name], two[name]) for name in parameters)
    assert all(not torch.equal(*two) for two in pairwise(method.shows))


# The inner loop


def canvas_after_a_step(values):
    """The noise before and after the first inner step, and the canvas."""
    started = trial(values=values)
    method = started.method
    canvas = method.begin(TARGET, rng(1))
    (noise,) = canvas.optimizers[0].param_groups[1]["params"]
    before = noise.detach().clone()
    canvas.step(method.loss(started.view(canvas.render(), TARGET, adversarial=False)))
    return before, noise.detach(), canvas


def test_the_noise_is_optimized_along_with_the_copy():
    before, after, canvas = canvas_after_a_step({"latent_lr": 0.05, "generator_lr": 0.002})
    assert before.shape == (9, 4)
    assert (after - before).abs().max().item() == pytest.approx(0.05, rel=1e-3)
    inner = canvas.optimizers[0]
    assert [group["lr"] for group in inner.param_groups] == [0.002, 0.05]


def test_noise_with_a_learning_rate_of_zero_stays():
    before, after, _ = canvas_after_a_step({"latent_lr": 0.0})
    assert torch.equal(after, before)


def test_every_round_has_fresh_noise_and_classes():
    started = trial(values={"meta": "none", "batch_size": 300})
    one, two = (started.method.targets(rng(seed)) for seed in (0, 1))
    assert one.shape == (300,) and not torch.equal(one, two)
    assert one.bincount(minlength=3).min() > 70 and one.max() == 2
    started.method.synthesize(adversarial=False, rng=(draws := rng()))
    started.method.synthesize(adversarial=False, rng=draws)
    assert not torch.equal(started.method.shows[0], started.method.shows[2])


def late_losses(meta, teacher):
    """The mean loss that rounds of five steps end with, after a number of earlier rounds."""
    values = {"meta": meta, "synthesis_steps": 5, "batch_size": 20, "generator_width": 8}
    values |= {"latent": 32, "bn_momentum": 0.0, "adversarial_weight": 0.0}
    started = trial(Fast, values, classes=10, teacher=teacher)
    draws = rng(4)
    losses = [started.method.synthesize(adversarial=False, rng=draws)[1] for _ in range(30)]
    return sum(losses[-10:]) / 10, sum(losses[:3]) / 3


@pytest.fixture(scope="module")
def unlearned(digits_teacher):
    return late_losses("none", digits_teacher)


@pytest.mark.parametrize("meta", ["fomaml", "reptile"])
def test_meta_learning_lowers_what_a_few_steps_reach(meta, digits_teacher, unlearned):
    late, early = late_losses(meta, digits_teacher)
    assert late < 0.8 * early
    assert late < 0.8 * unlearned[0]


# A first layer drawn anew, and what goes wrong


def test_the_first_layer_is_drawn_anew_at_the_epoch_asked_for_and_nothing_else():
    started = trial(Fast, {"reset_epoch": 3, "latent": 100, "generator_width": 16})
    method, seeds = started.method, started.method.generator.trunk.seeds[0]
    seeds.bias.data.fill_(1)
    before = snapshot(method.generator)
    for epoch in (0, 1, 2, 4):
        method.before_rounds(epoch, rng(epoch))
        assert same(snapshot(method.generator), before)
    method.before_rounds(3, rng())
    assert seeds.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(seeds.weight.mean().item()) < 1e-3 and not seeds.bias.any()
    after = snapshot(method.generator)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"trunk.seeds.0.weight", "trunk.seeds.0.bias"}


def test_by_default_the_first_layer_is_never_drawn_anew():
    started = trial(Fast, {"reset_epoch": FastSettings().reset_epoch})
    before = snapshot(started.method.generator)
    for epoch in range(5):
        started.method.before_rounds(epoch, rng())
    assert same(snapshot(started.method.generator), before)


def test_a_meta_generator_that_diverged_is_replaced_along_with_its_optimizer():
    started = trial(Fast)
    method = started.method
    method.generator.trunk.heads[0].weight.data.fill_(math.nan)
    (metrics,) = started.run(range(1))
    assert math.isfinite(metrics["generator_loss"])
    assert weights(method.generator).isfinite().all()
    optimized = [id(p) for group in method.outer.param_groups for p in group["params"]]
    assert optimized == [id(p) for p in method.generator.parameters()]


def test_a_trial_that_diverges_in_every_round_fails():
    with pytest.raises(TrialFailed, match="try a generator_lr below"):
        trial(Fast, {"generator_lr": 1e30, "warmup_rounds": 10}).run(range(1))


def test_trials_of_other_seeds_begin_with_other_generators():
    one, two, again = (weights(trial(Fast, seed=seed).method.generator) for seed in (0, 1, 0))
    assert torch.equal(one, again) and not torch.equal(one, two)


def test_the_paper_preset_is_what_the_reference_sets_for_five_steps_on_cifar():
    paper = build(FastSettings, Fast.presets["paper"], "test")
    assert (paper.synthesis_steps, paper.latent_lr, paper.generator_lr) == (5, 0.01, 3e-3)
    assert (paper.bn_weight, paper.bn_reduction, paper.bn_momentum) == (10, "sum", 0.9)
    assert (paper.one_hot_weight, paper.adversarial_weight) == (0.4, 1.1)
    assert (paper.latent, paper.generator_width, paper.batch_size) == (256, 64, 256)
    assert (paper.temperature, paper.student_lr, paper.weight_decay) == (20, 0.2, 1e-4)
    assert (paper.warmup, paper.reset_epoch - paper.warmup) == (20, 120)
    assert (paper.meta, paper.clip_norm, paper.kd_steps) == ("fomaml", 0, 400)
