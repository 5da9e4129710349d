import pytest
import torch
from definitions import answers, kl
from method_contract import LEARNING, MethodContract
from workbenches import IdleStudent, Trial, rng, softer

from dfkd.methods.adi import Adi, AdiSettings
from dfkd.methods.deepinversion import Deepinversion
from dfkd.methods.losses import clamped_jensen_shannon, jensen_shannon
from dfkd.methods.settings import build

QUICK = {
    "batch_size": 7,  # divisible by no number of classes in these tests
    "synthesis_steps": 3,
    "warmup_rounds": 2,
    "rounds": 2,
    "pixel_lr": 0.1,
    "jitter": 0.13,
}
BOUNDED = {"pool_capacity": 20}
NO_BN = {"bn_weight": 0.0}
ALONE = NO_BN | {"one_hot_weight": 0.0, "tv_weight": 0.0, "l2_weight": 0.0}


class TestAdi(MethodContract):
    method = Adi
    quick = QUICK
    bounded = BOUNDED
    adversarial = ALONE
    without_batch_norm = NO_BN


class TestAdiAsPublished(MethodContract):
    method = Adi
    quick = QUICK | {"js": "clamped"}
    bounded = BOUNDED
    adversarial = ALONE
    without_batch_norm = NO_BN


def trial(values=None, method=Adi, **bench):
    return Trial(method, LEARNING | QUICK | (values or {}), **bench)


IMAGES = torch.rand(9, 1, 8, 8, generator=rng())
TARGET = torch.arange(9) % 3


def test_the_term_is_one_minus_the_jensen_shannon_divergence_at_temperature_three():
    started = trial(ALONE | {"adversarial_weight": 2.0})
    view = started.view(IMAGES, TARGET)
    with started.bench.student.frozen():
        found = started.method.loss(view)
    halves = []
    softened = (answers(sight.logits.double(), 3) for sight in (view.teacher, view.student))
    for p, q in zip(*softened, strict=True):
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        halves += [kl(p, middle) / 2, kl(q, middle) / 2]
    assert found.item() == pytest.approx(2 * (1 - sum(halves) / 9), rel=1e-5)


def test_the_published_form_is_clamped_and_summed_over_the_classes():
    started = trial(ALONE | {"adversarial_weight": 1.0, "js": "clamped"})
    view = started.view(IMAGES, TARGET)
    with started.bench.student.frozen():
        found = started.method.loss(view)
    both = view.student.logits, view.teacher.logits
    assert found == 1 - clamped_jensen_shannon(*both, reduction="batchmean")
    assert found != 1 - jensen_shannon(*both)


def test_the_student_does_not_matter_before_it_learns():
    started = trial()
    weightless = trial({"adversarial_weight": 0.0})
    for adversarial, equal in ((False, True), (True, False)):
        one, other = (
            t.method.loss(t.view(IMAGES, TARGET, adversarial=adversarial))
            for t in (started, weightless)
        )
        assert (one.item() == other.item()) is equal


def disagreement(teacher, weight):
    """JS of the teacher and a student that is half as sure, on images made at this weight."""
    student = softer(teacher, 0.5)
    values = {"adversarial_weight": weight, "synthesis_steps": 40, "warmup": 0, "jitter": 0.0}
    tools = {"teacher": teacher, "network": student, "student": IdleStudent, "classes": 10}
    started = trial(values, **tools)
    started.run(range(1))
    with started.bench.student.frozen(), torch.no_grad():
        images, _ = started.images(50)
        return jensen_shannon(student(images), teacher.logits(images)).item()


def test_images_are_such_that_student_and_teacher_differ(digits_teacher):
    assert disagreement(digits_teacher, 100.0) > 1.5 * disagreement(digits_teacher, 0.0)


def test_the_presets_are_those_of_deepinversion_with_a_student():
    for name in ("paper", "imagenet"):
        settings = build(AdiSettings, Adi.presets[name], "test")
        assert (settings.adversarial_weight, settings.js, settings.rounds) == (0.2, "clamped", 1)
        changed = {"adversarial_weight", "js", "rounds"}
        rest = {k: v for k, v in Adi.presets[name].items() if k not in changed}
        assert rest.items() <= Deepinversion.presets[name].items()
        assert len(rest) == len(Deepinversion.presets[name]) - 2
