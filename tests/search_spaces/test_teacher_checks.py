"""What is looked at before a teacher teaches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_tasks import plan, write_task
from workbenches import rng

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import build_network
from dfkd.methods.shape import ImageShape
from dfkd.methods.teacher import Teacher
from dfkd.orchestrator import distill
from dfkd.orchestrator.sweeps import teacher_accuracy
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.teacher_checks import doubt, examine
from dfkd.search_spaces.teachers import load_teacher, teacher_from_bytes

pytest_plugins = ["small_task_fixtures"]


def small_teacher(name="convnet-4-6", classes=3):
    return Teacher(build_network(name, 1, classes), (0.4,), (0.3,))


@pytest.mark.parametrize(
    ("name", "told"), [("convnet-4-6", "2 BatchNorm layers"), ("convnet-4-nobn", "no BatchNorm")]
)
def test_parameters_and_batch_norms_are_told(stripes_task, name, told):
    sentence = examine(stripes_task, small_teacher(name), "mine")
    assert sentence.startswith("mine: ") and told in sentence


def test_a_teacher_of_other_classes_is_refused(stripes_task):
    with pytest.raises(ConfigError, match="mine answers"):
        examine(stripes_task, small_teacher(classes=5), "mine")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_not_finite_are_refused(stripes_task, value):
    teacher = small_teacher()
    teacher.head.bias.data[1] = value
    with pytest.raises(ConfigError, match="not finite"):
        examine(stripes_task, teacher, "mine")


@pytest.mark.parametrize("accuracy", [0.0, 0.10, 0.11])
def test_an_accuracy_at_chance_is_doubted(accuracy):
    assert "normalization" in doubt(accuracy, 1000, 10)


@pytest.mark.parametrize(("accuracy", "images"), [(0.13, 1000), (0.9, 20), (0.0, 19)])
def test_an_accuracy_above_chance_or_of_few_images_is_not(accuracy, images):
    assert doubt(accuracy, images, 10) is None


def test_images_whose_labels_are_not_the_teachers_are_warned_of(tmp_path):
    path = write_task(tmp_path)
    spec = plan(path)
    images = load_data(spec.task, "test")
    said = []
    assert teacher_accuracy(spec, said.append) > 0.9 and not said
    labels = (images.labels.numpy() + 1) % 3
    np.savez(tmp_path / "stripes.npz", images=images.images[:, 0].numpy(), labels=labels)
    assert teacher_accuracy(spec, said.append) < 0.1
    assert said[0].startswith("warning: the teacher is right about")


# A program as a teacher


@pytest.fixture(scope="module")
def program(done):
    """The path of an exported student, to be a teacher."""
    return str(done.exported.local / "student.pt2")


def test_a_program_answers_as_a_teacher_as_it_did_as_a_student(stripes_task, program):
    teacher = load_teacher(stripes_task, program).build(stripes_task)
    images = load_data(stripes_task, "test").images.float() / 255
    expected = torch.export.load(program).module()(images)
    assert torch.allclose(teacher.logits(images), expected, atol=1e-5)
    assert teacher.batch_norms == 0 and teacher.head is None and teacher.pooled is None


def test_gradients_reach_the_images_through_a_program(stripes_task, program):
    teacher = load_teacher(stripes_task, program).build(stripes_task)
    images = torch.rand(3, 1, 6, 6, generator=rng()).requires_grad_()
    teacher.logits(images).square().sum().backward()
    assert images.grad.abs().amax((1, 2, 3)).min() > 0


def test_a_program_is_kept_with_a_sweep_as_any_teacher(stripes_task, program):
    teacher = load_teacher(stripes_task, program)
    back = teacher_from_bytes(teacher.to_bytes())
    assert back.fingerprint == teacher.fingerprint
    images = torch.rand(3, 1, 6, 6, generator=rng())
    one, two = (weights.build(stripes_task).logits(images) for weights in (teacher, back))
    assert torch.equal(one, two)


def test_what_a_program_cannot_give_is_told(stripes_task, program):
    said = []
    load_teacher(stripes_task, program, said.append)
    assert any("black box" in text and "BatchNorm" in text for text in said)


def test_a_method_that_needs_batch_norms_refuses_a_program_before_anything_runs(
    stripes_file, program
):
    with pytest.raises(ConfigError, match=r"nayer: the teacher has no BatchNorm.*bn_weight=0"):
        plan(stripes_file, teacher=program)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dfad", {"batch_size": 8, "generator_width": 2, "latent": 4}),
        ("nayer", {"bn_weight": "0"}),
    ],
)
def test_a_program_teaches_where_its_answers_are_enough(
    stripes_file, program, tmp_path, method, settings
):
    result = distill(
        stripes_file,
        methods=(method,),
        teacher=program,
        settings=settings,
        epochs=2,
        storage=str(tmp_path),
        name="run",
    )
    assert result.best.spec.method == method and result.best.best["accuracy"] > 0
    assert (tmp_path / "run" / "best" / "student.pt2").is_file()


def test_a_program_for_other_images_is_refused(stripes_task, program):
    task = replace(stripes_task, shape=ImageShape(1, 8, 8))
    with pytest.raises(ConfigError, match="cannot take 2 images of 1x8x8"):
        load_teacher(task, program)


def test_a_program_for_one_size_of_batch_is_refused(stripes_task, tmp_path):
    network = build_network("convnet-4", 1, 3).eval()
    exported = torch.export.export(network, (torch.zeros(2, 1, 6, 6),))
    torch.export.save(exported, tmp_path / "two.pt2")
    with pytest.raises(ConfigError, match="cannot take 3 images"):
        load_teacher(stripes_task, str(tmp_path / "two.pt2"))


def test_a_program_that_is_none_is_refused(stripes_task, tmp_path):
    (tmp_path / "junk.pt2").write_bytes(b"junk")
    with pytest.raises(ConfigError, match=r"teacher .*junk.pt2 cannot be read"):
        load_teacher(stripes_task, str(tmp_path / "junk.pt2"))


def test_a_program_that_does_not_exist_is_said(stripes_task):
    with pytest.raises(ConfigError, match=r"teacher missing.pt2 cannot be read: No such file"):
        load_teacher(stripes_task, "missing.pt2")
