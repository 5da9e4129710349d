import copy
from typing import ClassVar

import pytest
import torch
from game_contract import GAME, GameContract
from method_contract import LEARNING
from workbenches import IdleStudent, Trial, rng, same, snapshot

from dfkd.methods.losses import (
    balance,
    batch_norm_gap,
    confidence,
    distillation,
    logit_distance,
)
from dfkd.methods.mad import Mad

IMAGES = torch.rand(9, 1, 8, 8, generator=rng())
ADVERSARY_ALONE = {"bn_weight": 0.0, "one_hot_weight": 0.0, "balance_weight": 0.0}


class TestMad(GameContract):
    method = Mad
    adversarial = ADVERSARY_ALONE
    without_batch_norm: ClassVar = {"bn_weight": 0.0}
    disagreement = distillation


class TestMadByTheLogitsDistance(GameContract):
    method = Mad
    quick = GAME | {"adversarial": "l1"}
    adversarial = ADVERSARY_ALONE
    without_batch_norm: ClassVar = {"bn_weight": 0.0}
    disagreement = logit_distance


def trial(**values):
    return Trial(Mad, LEARNING | GAME | values, student=IdleStudent)


@pytest.mark.parametrize(("name", "distance"), [("kl", distillation), ("l1", logit_distance)])
def test_the_loss_is_the_weighted_sum_of_its_four_terms(name, distance):
    weights = {"adversarial_weight": 2.0, "bn_weight": 3.0, "one_hot_weight": 0.5}
    started = trial(**weights, balance_weight=0.7, adversarial=name)
    seen = started.bench.teacher.look(IMAGES)
    with started.bench.student.frozen() as student:
        expected = (
            -2.0 * distance(student(IMAGES), seen.logits)
            + 3.0 * batch_norm_gap(seen.moments, seen.running)
            + 0.5 * confidence(seen.logits)
            + 0.7 * balance(seen.logits)
        )
        loss = started.method.loss(started.view(IMAGES))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_slow_copy_starts_as_the_generator():
    method = trial().method
    assert same(snapshot(method.slow), snapshot(method.generator))


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_every_turn_the_slow_copy_moves_to_the_generator_by_one_minus_the_decay(decay):
    method = trial(ema_decay=decay, generator_lr=0.05).method
    for _ in range(2):
        before = copy.deepcopy(method.slow)
        method.train_generator(adversarial=True, rng=rng())
        triples = zip(
            before.parameters(),
            method.generator.parameters(),
            method.slow.parameters(),
            strict=True,
        )
        for old, fast, slow in triples:
            assert torch.allclose(slow, decay * old + (1 - decay) * fast, atol=1e-6)


def test_the_slow_copys_images_change_less_than_the_generators():
    method = trial(ema_decay=0.9, generator_lr=0.02).method
    noise = method.generator.draw(32, rng(9))
    moved = {"fast": 0.0, "slow": 0.0}
    networks = {"fast": method.generator, "slow": method.slow}
    for _ in range(10):
        before = {name: network(noise).detach() for name, network in networks.items()}
        method.train_generator(adversarial=True, rng=rng())
        for name, network in networks.items():
            moved[name] += (network(noise) - before[name]).abs().mean().item()
    assert moved["slow"] < 0.7 * moved["fast"]


def test_the_slow_copy_learns_only_by_averaging():
    started = trial()
    started.run(range(3))
    assert all(p.grad is None and not p.requires_grad for p in started.method.slow.parameters())


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 2), (0.5, 4)])
def test_the_share_of_replayed_images_is_as_set(share, expected):
    method = trial(replay_share=share).method
    with torch.no_grad():  # the slow copy paints in white
        method.slow.trunk.heads[0].weight.zero_()
        method.slow.trunk.heads[0].bias.fill_(50.0)
    images = method.source.sample(8, rng()).images
    assert (images.flatten(1).min(1).values > 0.99).sum() == expected


def test_nothing_is_called_published_as_nothing_was_read():
    assert "paper" not in Mad.presets
