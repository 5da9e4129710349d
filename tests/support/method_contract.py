"""What every method owes, whatever it does inside. Each method's tests inherit it:

    class TestFast(MethodContract):
        method = Fast
        quick = {"steps": 2}

after the sampler test cases of optuna.
"""

import dataclasses
import json
import math
from typing import ClassVar

import pytest
import torch
from workbenches import (
    IdleStudent,
    Trial,
    rng,
    same,
    snapshot,
    tensor_bytes,
    tiny_network,
    tiny_teacher,
)

from dfkd.methods.generators import ImageShape
from dfkd.methods.settings import build, describe
from dfkd.methods.student import StudentSettings

LEARNING = {  # how the student learns in all contract tests; one epoch of warm-up
    "warmup": 1,
    "kd_steps": 2,
    "kd_batch_size": 8,
    "student_lr": 0.05,
    "shift": 1,
}
SHAPES = [ImageShape(1, 8, 8), ImageShape(3, 8, 12), ImageShape(3, 7, 5)]


class MethodContract:
    method: ClassVar[type]
    quick: ClassVar[dict] = {}
    """Settings with which an epoch takes milliseconds and nothing special is off."""
    bounded: ClassVar[dict] = {}
    """Settings, besides `quick`, that bound the method's memory below ten epochs' images."""

    def trial(self, *, values=None, **bench):
        return Trial(self.method, LEARNING | self.quick | (values or {}), **bench)

    def test_the_same_seed_gives_the_same_metrics(self):
        assert self.trial().run(range(3)) == self.trial().run(range(3))

    def test_the_same_seed_gives_the_same_images_and_labels(self):
        one, two = self.trial(), self.trial()
        one.run(range(3))
        two.run(range(3))
        for a, b in zip(one.images(), two.images(), strict=True):
            assert torch.equal(a, b)

    def test_the_same_seed_gives_the_same_student(self):
        one, two = self.trial(), self.trial()
        one.run(range(3))
        two.run(range(3))
        assert same(snapshot(one.bench.student.network), snapshot(two.bench.student.network))

    def test_another_seed_gives_another_student(self):
        one, two = self.trial(), self.trial()
        one.run(range(3), seed=0)
        two.run(range(3), seed=1)
        assert not same(snapshot(one.bench.student.network), snapshot(two.bench.student.network))

    def test_what_happened_to_the_global_generator_before_does_not_matter(self):
        one, two = self.trial(), self.trial()
        torch.manual_seed(1)
        first = one.run(range(3))
        torch.manual_seed(2)
        assert two.run(range(3)) == first

    def test_the_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        self.trial().run(range(3))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("classes", [2, 30])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_images_fit_any_shape_and_number_of_classes(self, shape, classes):
        trial = self.trial(shape=shape, classes=classes)
        trial.run(range(2))
        images, labels = trial.images(count=17)
        assert images.shape == (17, shape.channels, shape.height, shape.width)
        assert labels.shape == (17,)

    def test_images_are_floats_in_the_unit_interval(self):
        trial = self.trial()
        trial.run(range(3))
        images, _ = trial.images()
        assert images.dtype == torch.float32
        assert 0 <= images.min() < images.max() <= 1

    def test_labels_are_classes(self):
        trial = self.trial(classes=4)
        trial.run(range(3))
        _, labels = trial.images(count=200)
        assert labels.dtype == torch.int64
        assert set(labels.tolist()) == set(range(4))

    def test_metrics_are_finite_numbers_that_json_can_write(self):
        for metrics in self.trial().run(range(3)):
            assert all(math.isfinite(value) for value in metrics.values())
            assert json.loads(json.dumps(metrics)) == metrics

    def test_warm_up_teaches_the_student_nothing(self):
        trial = self.trial()
        before = snapshot(trial.bench.student.network)
        trial.run(range(1))
        assert same(snapshot(trial.bench.student.network), before)

    def test_the_student_learns_from_the_first_epoch_after_warm_up(self):
        trial = self.trial()
        before = snapshot(trial.bench.student.network)
        metrics = trial.run(range(2))
        assert not same(snapshot(trial.bench.student.network), before)
        assert "kd_loss" in metrics[1]

    def test_the_teachers_weights_and_statistics_stay_as_they_were(self):
        trial = self.trial()
        before = snapshot(trial.bench.teacher.network)
        trial.run(range(3))
        assert same(snapshot(trial.bench.teacher.network), before)

    def test_the_teacher_gets_no_gradients(self):
        trial = self.trial()
        trial.run(range(3))
        assert all(p.grad is None for p in trial.bench.teacher.network.parameters())

    def test_the_teacher_stays_frozen_and_in_evaluation_mode(self):
        trial = self.trial()
        trial.run(range(3))
        network = trial.bench.teacher.network
        assert not any(p.requires_grad for p in network.parameters())
        assert not any(module.training for module in network.modules())

    def test_synthesis_alone_leaves_the_students_weights_and_statistics(self):
        trial = self.trial(student=IdleStudent)
        before = snapshot(trial.bench.student.network)
        trial.run(range(3))
        assert same(snapshot(trial.bench.student.network), before)

    def test_synthesis_alone_leaves_the_student_able_to_learn(self):
        trial = self.trial(student=IdleStudent)
        trial.run(range(3))
        assert all(p.requires_grad for p in trial.bench.student.network.parameters())

    def test_synthesis_alone_gives_the_student_no_gradients(self):
        trial = self.trial(student=IdleStudent)
        trial.run(range(3))
        assert all(p.grad is None for p in trial.bench.student.network.parameters())

    @pytest.mark.parametrize("done", range(6))
    def test_a_resumed_trial_goes_on_exactly(self, done):
        whole = self.trial()
        whole.run(range(done))
        saved = whole.save()
        after = whole.run(range(done, 6))
        resumed = self.trial(network=tiny_network(seed="not the one that was saved"))
        resumed.load(saved)
        assert resumed.run(range(done, 6)) == after
        assert same(snapshot(resumed.bench.student.network), snapshot(whole.bench.student.network))
        assert torch.equal(resumed.images()[0], whole.images()[0])

    def test_memory_stays_bounded_over_fifty_epochs(self):
        values = {"kd_steps": 1, **self.bounded}
        trial = self.trial(values=values)
        trial.run(range(10))
        early = tensor_bytes(trial.method.state())
        trial.run(range(10, 50))
        assert tensor_bytes(trial.method.state()) == early

    def test_settings_extend_the_students(self):
        assert issubclass(self.method.settings_class, StudentSettings)

    def test_settings_survive_a_json_round_trip(self):
        for values in ({}, self.quick, *self.method.presets.values()):
            settings = build(self.method.settings_class, values, "test")
            text = json.dumps(dataclasses.asdict(settings))
            assert build(self.method.settings_class, json.loads(text), "test") == settings

    def test_presets_name_settings_that_exist(self):
        known = describe(self.method.settings_class)
        for preset in self.method.presets.values():
            assert preset.keys() <= known.keys()

    def test_every_setting_says_what_it_means(self):
        for setting in describe(self.method.settings_class).values():
            assert setting.bounds.help

    def test_there_are_no_objections_to_a_teacher_with_batch_norm(self):
        settings = self.method.settings_class()
        assert self.method.objections(settings, tiny_teacher()) == []

    def test_epochs_are_timed_by_activity(self):
        trial = self.trial()
        trial.run(range(2))
        assert trial.bench.clock.read()["distillation"] > 0

    def test_images_come_from_the_generator_that_is_passed_in(self):
        trial = self.trial()
        trial.run(range(3))
        one, two = (trial.method.source.sample(8, rng(seed))[0] for seed in (0, 1))
        assert not torch.equal(one, two)
