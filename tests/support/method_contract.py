"""What every method owes, whatever it does inside. Each method's tests inherit it:

    class TestFast(MethodContract):
        method = Fast
        quick = {"synthesis_steps": 2}
        bounded = {"pool_capacity": 20}
        adversarial = {"bn_weight": 0.0, "one_hot_weight": 0.0}
        without_batch_norm = {"bn_weight": 0.0}

after the sampler test cases of optuna.
"""

import dataclasses
import gc
import json
import math
import weakref
from typing import ClassVar

import pytest
import torch
from workbenches import (
    IdleStudent,
    Trial,
    rng,
    same,
    snapshot,
    softer,
    tensor_bytes,
    tiny_network,
    tiny_teacher,
)

from dfkd.methods.settings import build, describe
from dfkd.methods.shape import ImageShape
from dfkd.methods.student import StudentSettings

LEARNING = {  # how the student learns in all contract tests; one epoch of warm-up
    "warmup": 1,
    "kd_steps": 2,
    "kd_batch_size": 8,
    "student_lr": 0.05,
    "shift": 1,
}
HASTY = {"kd_steps": 1, "rounds": 1, "warmup_rounds": 1, "synthesis_steps": 1, "held_out": 0.0}
KINDS = [  # of images and classes
    (ImageShape(1, 8, 8), 2),
    (ImageShape(3, 8, 12), 5),
    (ImageShape(3, 7, 5), 2),
    (ImageShape(1, 8, 8), 1000),
]


class MethodContract:
    method: ClassVar[type]
    quick: ClassVar[dict] = {}
    """Settings with which an epoch takes milliseconds and nothing special is off."""
    bounded: ClassVar[dict] = {}
    """Settings, besides `quick`, that bound the method's memory below 20 rounds' images."""
    adversarial: ClassVar[dict | None] = None
    """Settings, besides `quick`, that leave of the generator's loss its adversarial term alone;
    None if it has no such term."""
    without_batch_norm: ClassVar[dict] = {}
    """Settings, besides `quick`, with which a teacher without BatchNorm will do."""

    def values(self, more=None):
        return LEARNING | self.quick | (more or {})

    def trial(self, *, values=None, **bench):
        return Trial(self.method, self.values(values), **bench)

    def ran(self, *, values=None, seed=0, **bench):
        """A trial after its first three epochs, the first of them warm-up."""
        trial = self.trial(values=values, **bench)
        trial.run(range(3), seed)
        return trial

    # The same seed, the same trial

    def test_the_same_seed_gives_the_same_metrics_images_labels_and_student(self):
        one, two = self.ran(), self.ran()
        assert one.metrics == two.metrics
        assert equal(one.images(), two.images())
        assert same(snapshot(one.bench.student.network), snapshot(two.bench.student.network))

    def test_another_seed_gives_another_student(self):
        one, two = self.ran(seed=0), self.ran(seed=1)
        assert not same(snapshot(one.bench.student.network), snapshot(two.bench.student.network))

    def test_the_global_generator_neither_matters_nor_changes(self):
        torch.manual_seed(1)
        first = self.ran().metrics
        torch.manual_seed(2)
        before = torch.get_rng_state()
        assert self.ran().metrics == first
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("done", [1, 3])
    def test_a_resumed_trial_goes_on_exactly(self, done):
        whole = self.trial()
        whole.run(range(done))
        saved = whole.save()
        after = whole.run(range(done, 4))
        resumed = self.trial(network=tiny_network(seed="not the one that was saved"))
        resumed.load(saved)
        assert resumed.run(range(done, 4)) == after
        assert same(snapshot(resumed.bench.student.network), snapshot(whole.bench.student.network))
        assert equal(resumed.images(), whole.images())

    # Images and labels

    @pytest.mark.parametrize(("shape", "classes"), KINDS, ids=str)
    def test_images_fit_any_shape_and_labels_any_number_of_classes(self, shape, classes):
        trial = self.trial(shape=shape, classes=classes)
        trial.run(range(2))
        images, labels = trial.images(count=17)
        assert images.shape == (17, shape.channels, shape.height, shape.width)
        assert images.dtype == torch.float32
        assert 0 <= images.min() < images.max() <= 1
        if labels is not None:
            assert labels.shape == (17,) and labels.dtype == torch.int64
            assert labels.min() >= 0 and labels.max() < classes

    def test_images_come_from_the_generator_that_is_passed_in(self):
        source = self.ran().method.source
        one, same_seed, other = (source.sample(8, rng(seed)).images for seed in (0, 0, 1))
        assert torch.equal(one, same_seed) and not torch.equal(one, other)

    def test_images_keep_their_labels_in_the_pool(self):
        trial = self.ran(classes=4)
        pool = getattr(trial.method, "pool", None)
        if pool is None:
            pytest.skip("this method keeps no images")
        assert len(pool.labels) == len(pool) > 0
        assert set(pool.labels.tolist()) <= set(range(4))
        drawn = pool.sample(50, rng())
        assert len(drawn.images) == len(drawn.labels) == 50
        if hasattr(pool, "images"):  # else they have several sizes
            assert len(pool.images) == len(pool)
            assert torch.equal(drawn.labels, pool.labels[drawn.index])
            assert torch.equal((drawn.images * 255).round(), pool.images[drawn.index].float())

    # Teacher and student

    def test_the_teacher_stays_frozen_and_as_it_was(self):
        teacher = tiny_teacher()
        before = snapshot(teacher.network)
        self.ran(teacher=teacher)
        assert same(snapshot(teacher.network), before)
        assert not any(module.training for module in teacher.network.modules())
        for p in teacher.network.parameters():
            assert p.grad is None and not p.requires_grad

    def test_synthesis_alone_leaves_the_student_as_it_was_and_able_to_learn(self):
        trial = self.trial(student=IdleStudent)
        network = trial.bench.student.network
        before = snapshot(network)
        trial.run(range(3))
        assert same(snapshot(network), before)
        assert all(p.grad is None and p.requires_grad for p in network.parameters())

    def test_the_student_learns_from_the_first_epoch_after_warm_up(self):
        trial = self.trial()
        before = snapshot(trial.bench.student.network)
        trial.run(range(1))
        assert same(snapshot(trial.bench.student.network), before)
        (metrics,) = trial.run(range(1, 2))
        assert not same(snapshot(trial.bench.student.network), before)
        assert "kd_loss" in metrics

    def test_the_student_that_is_left_has_the_weights_of_its_network_and_no_more(self):
        trial = self.ran()
        assert snapshot(trial.bench.student.network).keys() == snapshot(tiny_network()).keys()

    def duel(self, factor):
        """A trial on nothing but the adversarial term, its student as sure as `factor` says.

        In float64, so that what should be zero can be told from what is small.
        """
        if self.adversarial is None:
            pytest.skip("this method's synthesis has no adversarial term")
        teacher = tiny_teacher()
        teacher.network.double()
        student = softer(teacher, factor)
        return self.trial(values=self.adversarial, teacher=teacher, network=student)

    def test_the_students_weights_change_the_adversarial_loss(self):
        losses = []
        for factor in (0.5, 3.0):
            trial = self.duel(factor)
            with trial.bench.student.frozen():
                losses.append(trial.method.loss(trial.view(IMAGES, TARGET)).item())
        assert losses[0] != pytest.approx(losses[1], rel=1e-3)

    def test_the_adversarial_gradient_is_zero_exactly_when_the_student_equals_its_teacher(self):
        equals, softer_one, surer_one = (
            self.duel(factor).gradient(IMAGES, TARGET).abs().max() for factor in (1.0, 0.5, 3.0)
        )
        assert softer_one > 1e-6 and surer_one > 1e-6
        assert equals < 1e-6 * softer_one

    def test_a_teacher_without_batch_norm_is_welcome_or_refused_with_what_to_do(self):
        teacher = tiny_teacher(name="convnet-4-6-nobn")
        values, settings = {}, build(self.method.settings_class, self.values(), "test")
        if objections := self.method.objections(settings, teacher):
            assert all("BatchNorm" in o for o in objections) and "bn_weight" in objections[0]
            values = self.without_batch_norm
            settings = build(self.method.settings_class, self.values(values), "test")
            assert self.method.objections(settings, teacher) == []
        trial = self.trial(values=values, teacher=teacher)
        assert "kd_loss" in trial.run(range(2))[1]

    def test_a_teacher_that_is_sure_beyond_the_range_of_floats_breaks_nothing(self):
        teacher = tiny_teacher()
        for p in teacher.network.network.classifier.parameters():
            p.data *= 1000
        trial = self.ran(teacher=teacher)
        assert all(map(math.isfinite, (value for m in trial.metrics for value in m.values())))
        assert trial.images()[0].isfinite().all()

    def test_there_are_no_objections_to_a_teacher_with_batch_norm(self):
        for values in ({}, *self.method.presets.values()):
            settings = build(self.method.settings_class, values, "test")
            assert self.method.objections(settings, tiny_teacher()) == []

    def test_probes_are_a_few_images_as_bytes(self):
        trial = self.ran()
        probes = trial.method.probes(10, rng())
        shape = trial.bench.shape
        assert probes.dtype == torch.uint8
        assert probes.shape[1:] == (shape.channels, shape.height, shape.width)
        assert 1 <= len(probes) <= 10

    # What an epoch consists of, counted

    def counting(self, **values):
        """A trial, and lists that grow with every step of synthesis and with every lesson."""
        trial = self.trial(values=values)
        steps, lessons = [], []
        loss, learn = getattr(trial.method, "loss", None), trial.bench.student.learn
        trial.method.loss = lambda view: steps.append(1) or loss(view)
        trial.bench.student.learn = lambda *given: lessons.append(1) or learn(*given)
        return trial, steps, lessons

    def test_an_epoch_consists_of_what_its_effort_says(self):
        trial, steps, lessons = self.counting(kd_steps=7)
        for epoch in (0, 1):  # the first is warm-up
            steps.clear(), lessons.clear()
            trial.run([epoch])
            effort = self.method.effort(trial.bench.student.settings, learning=epoch == 1)
            assert (len(steps), len(lessons)) == (effort.steps, effort.lessons)

    def test_a_shortened_epoch_is_of_the_same_kind_and_no_longer(self):
        whole = self.trial(values={"kd_steps": 40}).bench.student.settings
        brief = self.method.shortened(whole, 2)
        trial, steps, lessons = self.counting(**{"kd_steps": 40, **brief})
        trial.run([0, 1])
        both = [self.method.effort(whole, learning=learning) for learning in (False, True)]
        assert len(steps) <= sum(effort.steps for effort in both)
        assert 0 < len(lessons) < 40
        assert bool(steps) == any(effort.steps for effort in both)

    def test_the_stores_hold_as_many_rows_as_were_counted(self):
        trial = self.ran()
        settings, rounds = trial.bench.student.settings, 3 * 10
        for name, rows in self.method.kept(settings, 3).items():
            assert abs(len(getattr(trial.method, name)) - rows) <= rounds  # what is held out, +-1

    # Memory, metrics, settings

    @pytest.mark.no_cover  # others reach the same lines in a hundredth of the rounds
    def test_memory_stays_bounded_over_a_hundred_rounds(self):
        known = describe(self.method.settings_class)
        hasty = {name: value for name, value in HASTY.items() if name in known}
        trial = self.trial(values=hasty | self.bounded)
        trial.run(range(20))
        early = tensor_bytes(trial.method.state())
        trial.run(range(20, 100))
        assert tensor_bytes(trial.method.state()) == early

    def test_a_round_leaves_nothing_to_the_garbage_collector(self):
        trial = self.trial()
        begin = getattr(trial.method, "begin", None)
        if begin is None:
            pytest.skip("this method has no canvas")
        canvases = []

        def watched(*details):
            canvas = begin(*details)
            canvases.append(weakref.ref(canvas))
            return canvas

        trial.method.begin = watched
        gc.collect()
        gc.disable()
        try:
            trial.run(range(2))
            assert canvases and not any(canvas() for canvas in canvases)
        finally:
            gc.enable()

    def test_metrics_are_finite_numbers_that_json_can_write(self):
        for metrics in self.ran().metrics:
            assert all(math.isfinite(value) for value in metrics.values())
            assert json.loads(json.dumps(metrics)) == metrics

    def test_epochs_are_timed_by_activity(self):
        assert self.ran().bench.clock.read()["distillation"] > 0

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


IMAGES = torch.rand(9, 1, 8, 8, generator=rng(), dtype=torch.float64)
TARGET = torch.arange(9) % 3


def equal(one, two):
    """Whether two batches have the same images and the same labels, or both none."""
    if one[1] is None or two[1] is None:
        return torch.equal(one[0], two[0]) and one[1] is two[1]
    return torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
