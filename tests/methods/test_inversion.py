"""The skeleton of all inversions, by one that optimizes nothing but pixels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_contract import MethodContract
from pixels import QUICK, Pixels, trial
from workbenches import IdleStudent, rng, softer, tiny_network, tiny_teacher

from dfkd.methods.augment import Augmentation
from dfkd.methods.inversion import InversionSettings, balanced_classes
from dfkd.methods.losses import batch_norm_gap, masked_adversarial, one_hot
from dfkd.methods.memory import Shard
from dfkd.methods.teacher import Teacher
from dfkd.methods.team import Alone

TARGET = torch.arange(9) % 3
ONLY = {"bn_weight": 0.0, "one_hot_weight": 0.0, "adversarial_weight": 0.0}


class TestPixels(MethodContract):
    method = Pixels
    quick = QUICK
    bounded = {"pool_capacity": 20}  # noqa: RUF012
    adversarial = {"bn_weight": 0.0, "one_hot_weight": 0.0}  # noqa: RUF012
    without_batch_norm = {"bn_weight": 0.0}  # noqa: RUF012


def images(count=9, seed=0):
    return torch.rand(count, 1, 8, 8, generator=rng(seed))


# The pool and its rounds


def test_rounds_of_warm_up_and_after_are_as_many_as_the_settings_say():
    metrics = trial({"warmup_rounds": 3, "rounds": 2, "warmup": 2}).run(range(4))
    assert [m["pool_images"] for m in metrics] == [7 * rounds for rounds in (3, 6, 8, 10)]
    assert [m["images_made"] for m in metrics] == [7 * rounds for rounds in (3, 3, 2, 2)]


def test_without_rounds_after_warm_up_the_student_learns_from_what_there_is():
    metrics = trial({"rounds": 0}).run(range(3))
    assert [m["pool_images"] for m in metrics] == [21] * 3
    assert "generator_loss" not in metrics[1] and "kd_loss" in metrics[1]


def test_the_pool_keeps_the_newest_images_up_to_its_capacity():
    started = trial({"pool_capacity": 10})
    assert started.run(range(1))[-1]["pool_images"] == 10
    newest = torch.cat(started.method.finished)[-10:]
    expected = Shard.of(newest, torch.zeros(10)).images
    assert {tuple(i.flatten().tolist()) for i in started.method.pool.images} == {
        tuple(i.flatten().tolist()) for i in expected
    }


def test_every_round_brings_all_classes():
    started = trial({"batch_size": 8})
    started.run(range(1))
    for labels in started.method.pool.labels.split(8):
        assert set(labels.tolist()) == {0, 1, 2}


@given(st.integers(1, 60), st.integers(2, 30), st.integers(0, 99))
def test_classes_are_balanced_up_to_the_remainder(count, classes, seed):
    counts = balanced_classes(count, classes, rng(seed)).bincount(minlength=classes)
    assert len(counts) == classes and counts.sum() == count
    assert counts.min() >= count // classes
    assert (counts - count // classes).sum() == count % classes


def test_the_remaining_classes_are_drawn_from_all():
    rest = [balanced_classes(4, 3, rng(seed))[3].item() for seed in range(30)]
    assert set(rest) == {0, 1, 2}


class Worker(Alone):
    """One of two workers; the other one sends the same `mail` every epoch."""

    def __init__(self, rank, mail=()):
        self.rank, self.size = rank, 2
        self.mail = list(mail)
        self.sent = []

    def share(self, shards):
        self.sent.append(len(shards))
        return [*shards, *self.mail]


@pytest.mark.parametrize(("rank", "expected"), [(0, [2, 1, 2]), (1, [1, 2, 1])])
def test_a_worker_synthesizes_its_portion_of_the_rounds(rank, expected):
    team = Worker(rank)
    trial(team=team, student=IdleStudent).run(range(3))  # of three rounds each
    assert team.sent == expected


def test_a_resumed_worker_remembers_whose_turn_it_is():
    team = Worker(0)
    first, resumed = trial(team=Worker(0)), trial(team=team)
    first.run(range(1))
    resumed.load(first.save())
    resumed.run(range(1, 2))
    assert team.sent == [1]


def test_a_worker_takes_the_shards_of_the_others_into_its_pool():
    mail = Shard(torch.full((7, 1, 8, 8), 99, dtype=torch.uint8), torch.full((7,), 2))
    started = trial(team=Worker(0, [mail]))
    started.run(range(1))
    assert torch.equal(started.method.pool.images[-7:], mail.images)
    assert torch.equal(started.method.pool.labels[-7:], mail.labels)


def test_a_worker_without_a_round_of_its_own_reports_no_loss():
    metrics = trial({"warmup_rounds": 1}, team=Worker(1)).run(range(1))
    assert "generator_loss" not in metrics[0]


# The loss


def test_the_loss_is_the_weighted_sum_of_its_three_terms():
    weights = {"bn_weight": 3.0, "one_hot_weight": 0.7, "adversarial_weight": 1.3}
    started = trial(weights)
    teacher, student = started.bench.teacher, started.bench.student.network.eval()
    seen = teacher.look(images())
    expected = (
        3.0 * batch_norm_gap(seen.moments, teacher.running)
        + 0.7 * one_hot(seen.logits, TARGET)
        + 1.3 * masked_adversarial(student(images()), seen.logits)
    )
    loss = started.method.loss(started.view(images(), TARGET))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_batch_norm_term_is_summed_over_layers_if_asked():
    losses = {}
    for reduction in ("mean", "sum"):
        started = trial(ONLY | {"bn_weight": 1.0, "bn_reduction": reduction})
        losses[reduction] = started.method.loss(started.view(images(), TARGET))
    assert losses["sum"].item() == pytest.approx(2 * losses["mean"].item(), rel=1e-5)


def pools_of_two_students(warmup):
    """What two trials synthesize that differ in nothing but how sure their student is."""
    pools = []
    for factor in (0.5, 3.0):
        started = trial(
            {"warmup": warmup, "synthesis_steps": 4},
            network=softer(tiny_teacher(), factor),
            student=IdleStudent,
        )
        started.run(range(2))
        pools.append(started.method.pool.images)
    return pools


def test_synthesis_in_warm_up_does_not_depend_on_the_student():
    assert torch.equal(*pools_of_two_students(warmup=2))


def test_synthesis_after_warm_up_does():
    assert not torch.equal(*pools_of_two_students(warmup=0))


def test_synthesis_without_adversarial_weight_never_runs_the_student():
    network, calls = tiny_network(), []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    values = {"warmup": 0, "adversarial_weight": 0.0}
    trial(values, network=network, student=IdleStudent).run(range(1))
    assert not calls


def test_synthesis_asks_each_network_once_a_step():
    teacher, network, calls = tiny_teacher(), tiny_network(), []
    for name, one in (("teacher", teacher.network), ("student", network)):
        one.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    trial({"warmup": 0}, teacher=teacher, network=network, student=IdleStudent).run(range(1))
    assert calls == ["teacher", "student"] * 3 * 2


def test_the_student_is_in_evaluation_mode_while_images_are_made():
    network, modes = tiny_network(), []
    network.register_forward_pre_hook(lambda one, _: modes.append(one.training))
    trial(network=network, student=IdleStudent).run(range(1, 2))
    assert modes and not any(modes)


def test_teacher_and_student_judge_the_same_augmented_images():
    teacher, network, shown = tiny_teacher(), tiny_network(), []
    for one in (teacher.network, network):
        one.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    started = trial({"shift": 2, "synthesis_steps": 1}, teacher=teacher, network=network)
    draws = rng()
    started.method.invert(TARGET, adversarial=True, rng=draws)
    draws = rng()
    torch.randn(9, 1, 8, 8, generator=draws)  # what the pixels took
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[0], Augmentation(2, flip=True)(started.method.made[0], draws))


# L_bn and its moving average


def test_the_batch_norm_term_is_zero_for_a_batch_with_the_remembered_statistics():
    started = trial(ONLY | {"bn_weight": 1.0})
    teacher = started.bench.teacher
    for i in range(teacher.batch_norms):  # a layer's input depends on the memories before it
        moments = teacher.look(images()).moments
        for remembered, seen in zip(teacher.running[i], moments[i], strict=True):
            remembered.copy_(seen)
    loss = started.method.loss(started.view(images(), TARGET))
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_in_the_first_round_the_batchs_own_statistics_count():
    started = trial(ONLY | {"bn_weight": 2.0})
    teacher = started.bench.teacher
    expected = 2.0 * batch_norm_gap(teacher.look(images()).moments, teacher.running)
    loss = started.method.loss(started.view(images(), TARGET))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_after_the_first_round_the_gradient_is_scaled_by_the_batchs_share(momentum):
    started = trial(ONLY | {"bn_weight": 1.0, "bn_momentum": momentum})
    first = started.gradient(images(), TARGET)
    # if the past is where the teacher is, the gap keeps its direction and shrinks by the share
    started.method.statistics.remember(started.bench.teacher.running)
    second = started.gradient(images(), TARGET)
    assert torch.allclose(second, (1 - momentum) * first, atol=1e-6)


class Recorder(Teacher):
    """A teacher that keeps the statistics of every batch that it was shown."""

    def look(self, images, *, deep=True):
        seen = super().look(images, deep=deep)
        self.seen = [*getattr(self, "seen", []), seen.moments]
        return seen


def test_the_average_moves_once_per_round_by_the_last_batch():
    recorder = Recorder(tiny_teacher().network.network, (0.5,), (0.25,))
    started = trial({"bn_momentum": 0.9}, teacher=recorder)
    started.run(range(1))
    one, two, three = recorder.seen[1::2]  # of each round the second step's
    for layer, pair in enumerate(started.method.statistics.past):
        for which, average in enumerate(pair):
            a, b, c = (batch[layer][which] for batch in (one, two, three))
            expected = 0.1 * c + 0.9 * (0.1 * b + 0.9 * a)
            assert torch.allclose(average, expected, atol=1e-6)


def test_without_its_term_no_statistics_are_kept():
    started = trial({"bn_weight": 0.0})
    started.run(range(2))
    assert started.method.statistics.past is None


def test_a_teacher_without_batch_norm_is_refused_with_what_to_do():
    teacher = tiny_teacher(name="convnet-4-nobn")
    (objection,) = Pixels.objections(InversionSettings(), teacher)
    assert "no BatchNorm" in objection and "bn_weight=0" in objection
    assert Pixels.objections(InversionSettings(bn_weight=0), teacher) == []
