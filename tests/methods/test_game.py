"""The skeleton of all games, by the plainest there could be."""

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from game_contract import GAME, GameContract
from method_contract import LEARNING
from workbenches import IdleStudent, Trial, rng, same, snapshot, tiny_teacher

from dfkd.methods.errors import TrialFailed
from dfkd.methods.game import Fresh, Game, GameSettings
from dfkd.methods.losses import batch_norm_gap, distillation, divergence, one_hot, weighted
from dfkd.methods.settings import setting
from dfkd.methods.student import Student

IMAGES = torch.rand(9, 1, 8, 8, generator=rng())


@dataclass(frozen=True, slots=True, kw_only=True)
class DuelSettings(GameSettings):
    bn_weight: float = setting(1.0, "of the teacher's statistics", at_least=0)
    one_hot_weight: float = setting(0.0, "of the wanted classes", at_least=0)
    adversarial_weight: float = setting(1.0, "of the disagreement", at_least=0)


class Duel(Game):
    """It writes down what happens."""

    settings_class = DuelSettings

    def __init__(self, settings, bench):
        super().__init__(settings, bench)
        self.diary, self.batches, self.views, self.losses = [], [], [], []

    def loss(self, view):
        seen, settings = view.teacher, self.settings
        loss = weighted(
            (settings.bn_weight, lambda: batch_norm_gap(seen.moments, seen.running)),
            (settings.one_hot_weight, lambda: one_hot(seen.logits, view.labels)),
            (
                settings.adversarial_weight * view.adversarial,
                lambda: -divergence(view.student.logits, seen.logits).mean(),
            ),
        )
        self.diary.append("generator" if view.adversarial else "generator alone")
        self.losses.append(loss.item())
        return loss

    def after_generator(self, view, rng):
        self.views.append(view)
        self.diary.append("after generator")

    def after_student(self, batch, step, rng):
        self.batches.append(batch)
        self.diary.append(f"student {step}")


class ConditionalDuel(Duel):
    conditional = True


class TestDuel(GameContract):
    method = Duel
    adversarial = {"bn_weight": 0.0}  # noqa: RUF012
    without_batch_norm = {"bn_weight": 0.0}  # noqa: RUF012
    disagreement = staticmethod(lambda s, t: distillation(s, t))


def trial(method=Duel, values=None, **bench):
    values = LEARNING | GAME | {"warmup": 0} | (values or {})
    return Trial(method, values, **bench)


# Turns


def test_generator_and_student_take_turns():
    values = {"kd_steps": 3, "student_steps": 2, "generator_steps": 2}
    started = trial(values=values)
    started.run(range(1))
    turn = ["generator", "generator", "after generator"]
    assert started.method.diary == [*turn, "student 0", "student 1", *turn, "student 0"]


def test_in_warm_up_the_generator_plays_alone_and_as_often():
    started = trial(values={"kd_steps": 3, "student_steps": 2, "warmup": 1})
    started.run(range(1))
    assert started.method.diary == ["generator alone", "after generator"] * 2


def test_a_purely_adversarial_generator_waits_for_the_student():
    started = trial(values={"bn_weight": 0.0, "warmup": 1})
    before = snapshot(started.method.generator)
    (metrics,) = started.run(range(1))
    after = snapshot(started.method.generator)
    weights = dict(started.method.generator.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in weights)
    assert metrics["generator_loss"] == 0 and "kd_loss" not in metrics
    started.run(range(1, 2))
    assert not same(snapshot(started.method.generator), after)


def test_the_loss_reported_is_the_mean_of_each_turns_last():
    started = trial(values={"kd_steps": 6, "student_steps": 2, "generator_steps": 2})
    (metrics,) = started.run(range(1))
    last = started.method.losses[1::2]
    assert len(last) == 3
    assert metrics["generator_loss"] == pytest.approx(sum(last) / 3, rel=1e-5)


def test_the_generator_has_one_adam_for_the_whole_trial():
    started = trial(values={"kd_steps": 4, "student_steps": 2, "generator_steps": 3})
    started.run(range(3))
    (steps,) = {int(state["step"]) for state in started.method.adam.state.values()}
    assert steps == 3 * 2 * 3


def test_a_turn_goes_down_the_gradient_of_its_loss():
    started = trial(values={"batch_size": 64, "generator_lr": 0.01}, student=IdleStudent)
    losses = [started.method.train_generator(adversarial=True, rng=rng()) for _ in range(30)]
    assert losses[-1] < losses[0] - 0.05


def test_a_first_step_of_adam_moves_every_weight_by_the_learning_rate():
    started = trial(values={"generator_lr": 0.003})
    generator = started.method.generator
    before = copy.deepcopy(generator)
    started.method.train_generator(adversarial=True, rng=rng())
    for p, q in zip(generator.parameters(), before.parameters(), strict=True):
        felt = p.grad.abs() > 1e-5
        moved = ((q - p) / p.grad.sign())[felt]
        assert torch.allclose(moved, torch.full_like(moved, 0.003), rtol=1e-2)


def test_every_step_of_the_generator_has_noise_of_its_own():
    started = trial()
    shown = []
    started.method.generator.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    for _ in range(2):
        started.method.train_generator(adversarial=True, rng=(draws := rng()))
        started.method.train_generator(adversarial=True, rng=draws)
    one, two, again, _ = shown
    assert torch.equal(one, again) and not torch.equal(one, two)
    assert one.shape == (8, 4)


def test_the_noise_of_the_last_step_can_be_looked_up():
    started = trial(ConditionalDuel)
    method = started.method
    method.train_generator(adversarial=True, rng=rng())
    noise, target = method.drawn
    view = method.views[-1]
    assert len(noise) == len(view.images) == 8 and view.target is target


def test_the_images_reported_are_those_that_the_generator_made():
    started, made = trial(values={"kd_steps": 5, "student_steps": 2, "kd_batch_size": 6}), []
    started.method.generator.register_forward_hook(lambda *given: made.append(len(given[2])))
    (metrics,) = started.run(range(1))
    assert metrics["images_made"] == sum(made) == 3 * 8 + 5 * 6


# The student's batches


class Pupil(Student):
    """Keeps what it was taught."""

    def learn(self, teacher, batch, rng, lesson=None):
        self.taught = [*getattr(self, "taught", []), (batch, lesson)]
        return super().learn(teacher, batch, rng, lesson)


def test_every_student_step_has_a_fresh_batch():
    started = trial(values={"kd_batch_size": 6, "kd_steps": 3}, student=Pupil)
    started.run(range(1))
    taught = [batch for batch, _ in started.bench.student.taught]
    assert [len(batch.images) for batch in taught] == [6, 6, 6]
    assert not torch.equal(taught[0].images, taught[1].images)
    assert taught == started.method.batches  # as they were before augmentation


def test_the_students_images_carry_no_gradient_to_the_generator():
    started = trial()
    started.run(range(1))
    assert not any(batch.images.requires_grad for batch in started.method.batches)


def test_the_student_is_taught_the_methods_lesson():
    class Lecture(Duel):
        @property
        def lesson(self):
            return lecture

    def lecture(batch, mine, theirs):
        return mine.logits.square().mean()

    started = trial(Lecture, student=Pupil)
    started.run(range(1))
    assert all(lesson is lecture for _, lesson in started.bench.student.taught)


def test_a_method_may_choose_the_students_batches():
    class Fussy(Duel):
        def batch(self, count, rng):
            return replace(super().batch(count, rng), weights=torch.zeros(count))

    started = trial(Fussy)
    (metrics,) = started.run(range(1))
    assert metrics["kd_loss"] == 0


def test_the_loss_of_the_student_is_the_mean_of_its_steps():
    class Constant(Student):
        def learn(self, teacher, batch, rng, lesson=None):
            self.step = getattr(self, "step", 0) + 1
            return torch.tensor(float(self.step))

    (metrics,) = trial(values={"kd_steps": 4}, student=Constant).run(range(1))
    assert metrics["kd_loss"] == (1 + 2 + 3 + 4) / 4


# Where images come from


def test_fresh_images_without_classes_have_no_labels():
    assert trial().method.source.sample(5, rng()).labels is None


def test_fresh_images_are_of_the_classes_that_are_told():
    fresh = trial(ConditionalDuel, classes=4).method.fresh
    noise, target = fresh.draw(200, rng())
    batch = fresh.sample(200, rng())
    assert set(target.tolist()) == {0, 1, 2, 3}
    assert torch.equal(batch.labels, target)
    assert torch.equal(batch.images, fresh.generator(noise, target))


def test_a_conditional_game_runs_and_resumes():
    whole = trial(ConditionalDuel, {"one_hot_weight": 1.0})
    whole.run(range(1))
    saved, after = whole.save(), whole.run(range(1, 3))
    resumed = trial(ConditionalDuel, {"one_hot_weight": 1.0})
    resumed.load(saved)
    assert resumed.run(range(1, 3)) == after


def test_a_source_does_not_train_its_generator():
    generator = trial().method.generator
    before = snapshot(generator)
    Fresh(generator, 3).sample(9, rng())
    weights = dict(generator.named_parameters())
    assert all(torch.equal(snapshot(generator)[name], before[name]) for name in weights)
    assert all(p.grad is None for p in weights.values())


# What goes wrong


class Broken(Duel):
    def loss(self, view):
        return super().loss(view) * math.nan


def test_a_generator_whose_loss_is_not_finite_fails_the_trial_with_advice():
    started = trial(Broken, {"generator_lr": 0.004, "warmup": 1})
    advice = r"generator's loss is nan in epoch 0; try a generator_lr below 0\.004"
    with pytest.raises(TrialFailed, match=advice):
        started.run(range(1))


def test_a_generator_is_blamed_before_the_student_that_learned_from_it():
    started = trial(Broken, {"kd_steps": 4, "student_steps": 2})
    with pytest.raises(TrialFailed, match="generator's loss is nan in epoch 0"):
        started.run(range(1))


def test_a_teacher_without_batch_norm_is_refused_with_what_to_do():
    teacher = tiny_teacher(name="convnet-4-nobn")
    (objection,) = Duel.objections(DuelSettings(), teacher)
    assert "no BatchNorm" in objection and "bn_weight=0" in objection
    assert Duel.objections(DuelSettings(bn_weight=0), teacher) == []


def test_a_game_without_a_term_for_batch_norm_has_no_objections():
    assert Duel.objections(GameSettings(), tiny_teacher(name="convnet-4-nobn")) == []
