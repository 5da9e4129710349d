from typing import ClassVar

import pytest
import torch
from game_contract import GAME, GameContract
from method_contract import LEARNING
from workbenches import IdleStudent, Trial, rng

from dfkd.methods.dafl import Dafl
from dfkd.methods.dfkd_mb import DfkdMb
from dfkd.methods.losses import jensen_shannon
from dfkd.methods.memory import POLICIES

IMAGES = torch.rand(9, 1, 8, 8, generator=rng())
BANK = {"bank_capacity": 12, "bank_every": 2, "bank_insert": 5}


class TestDfkdMb(GameContract):
    method = DfkdMb
    quick = GAME | BANK
    bounded = BANK
    adversarial: ClassVar = {"one_hot_weight": 0.0, "balance_weight": 0.0, "activation_weight": 0.0}
    disagreement = jensen_shannon


class TestDfkdMbWithAReservoir(GameContract):
    method = DfkdMb
    quick = GAME | BANK | {"bank_policy": "reservoir"}
    bounded = BANK


def trial(student=IdleStudent, **values):
    values = LEARNING | GAME | BANK | {"warmup": 0, "student_steps": 1} | values
    return Trial(DfkdMb, values, student=student)


def test_the_loss_is_dafls_prior_minus_the_jensen_shannon_divergence():
    weights = {"one_hot_weight": 2.0, "balance_weight": 3.0, "activation_weight": 0.5}
    started = trial(**weights, adversarial_weight=4.0)
    prior = Trial(Dafl, LEARNING | GAME | weights)
    theirs = started.bench.teacher.logits(IMAGES)
    with started.bench.student.frozen() as student:
        loss = started.method.loss(started.view(IMAGES))
        differ = jensen_shannon(student(IMAGES), theirs, temperature=3.0)
    expected = prior.method.loss(prior.view(IMAGES)) - 4 * differ
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_new_images_enter_the_bank_every_few_turns():
    started = trial(kd_steps=1, bank_capacity=100, bank_every=3, bank_insert=5)
    sizes = [m["pool_images"] for m in started.run(range(8))]
    assert sizes == [5, 5, 5, 10, 10, 10, 15, 15]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_bank_never_holds_more_than_its_capacity(policy):
    started = trial(kd_steps=1, bank_capacity=12, bank_every=1, bank_policy=policy)
    sizes = [m["pool_images"] for m in started.run(range(5))]
    assert sizes == [5, 10, 12, 12, 12]


def test_warm_up_leaves_the_bank_empty():
    assert [m["pool_images"] for m in trial(warmup=2).run(range(2))] == [0, 0]


def test_the_bank_keeps_images_of_several_generators():
    started = trial(kd_steps=1, bank_capacity=100, bank_every=1, generator_lr=0.05)
    started.run(range(6))
    batches = started.method.pool.images.float().split(5)
    assert (batches[0].mean(0) - batches[-1].mean(0)).abs().max() > 5  # of 255


def test_images_in_the_bank_have_the_classes_the_teacher_sees_in_them():
    started = trial(bank_capacity=100)
    started.run(range(4))
    pool = started.method.pool
    with torch.no_grad():
        seen = started.bench.teacher.logits(pool.images.float() / 255).argmax(1)
    assert (seen == pool.labels).float().mean() > 0.9  # but for the rounding to 256 levels


def test_before_the_bank_has_images_all_are_novel():
    method = trial().method
    assert method.source is method.fresh


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 2), (0.5, 4)])
def test_the_share_of_replayed_images_is_as_set(share, expected):
    started = trial(replay_share=share)
    started.run(range(1))
    started.method.pool.images.fill_(255)  # the bank's images are white
    images = started.method.source.sample(8, rng()).images
    assert (images == 1).flatten(1).all(1).sum() == expected


def test_a_resumed_trial_remembers_when_the_bank_is_due():
    values = {"kd_steps": 1, "bank_capacity": 100, "bank_every": 3}
    started, resumed = trial(**values), trial(**values)
    started.run(range(2))
    resumed.load(started.save())
    assert [m["pool_images"] for m in resumed.run(range(2, 4))] == [5, 10]


def test_nothing_is_called_published_as_nothing_was_read():
    assert "paper" not in DfkdMb.presets
