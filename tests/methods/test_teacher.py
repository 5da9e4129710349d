import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from workbenches import rng, same, snapshot, tiny_teacher

from dfkd.methods.losses import batch_norm_gap
from dfkd.methods.networks import ConvNet, build_network
from dfkd.methods.teacher import Teacher

IMAGES = torch.rand(10, 1, 8, 8, generator=rng())


def test_logits_are_the_networks_answers_to_normalized_images():
    network = build_network("convnet-4-6", 1, 3).eval()
    expected = network((IMAGES - 0.3) / 0.4)
    assert torch.allclose(Teacher(network, (0.3,), (0.4,)).logits(IMAGES), expected)


def test_a_network_in_training_is_frozen_and_put_in_evaluation_mode():
    network = build_network("convnet-4-6", 1, 3).train()
    Teacher(network, (0.5,), (0.5,))
    assert not any(p.requires_grad for p in network.parameters())
    assert not any(m.training for m in network.modules())


def test_gradients_reach_the_images():
    images = IMAGES.clone().requires_grad_()
    tiny_teacher().logits(images).square().sum().backward()
    assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_an_image_is_answered_alike_in_any_batch():
    teacher = tiny_teacher()
    assert torch.allclose(teacher.logits(IMAGES)[:1], teacher.logits(IMAGES[:1]), atol=1e-5)


def test_a_look_gives_the_same_logits():
    teacher = tiny_teacher()
    assert torch.equal(teacher.look(IMAGES).logits, teacher.logits(IMAGES))


def test_a_look_leaves_the_batch_norms_memories_as_they_were():
    teacher = tiny_teacher()
    before = snapshot(teacher.network)
    teacher.look(IMAGES)
    assert same(snapshot(teacher.network), before)


def test_gradients_of_the_statistics_reach_the_images():
    teacher, images = tiny_teacher(), IMAGES.clone().requires_grad_()
    moments = teacher.look(images).moments
    batch_norm_gap(moments, teacher.running).backward()
    assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_a_batch_with_the_statistics_that_are_remembered_has_no_gap():
    teacher = tiny_teacher()
    for i in range(teacher.batch_norms):  # a layer's input depends on the memories before it
        moments = teacher.look(IMAGES).moments
        for remembered, seen in zip(teacher.running[i], moments[i], strict=True):
            remembered.copy_(seen)
    moments = teacher.look(IMAGES).moments
    assert batch_norm_gap(moments, teacher.running) < 1e-5


def test_another_batch_has_a_gap():
    teacher = tiny_teacher()
    moments = teacher.look(IMAGES * 0.1).moments
    assert batch_norm_gap(moments, teacher.running) > 0.1


def test_batch_norms_are_counted():
    assert tiny_teacher(name="convnet-4-6-5").batch_norms == 3


def test_a_network_without_batch_norm_has_none_to_count():
    assert tiny_teacher(name="convnet-4-nobn").batch_norms == 0


def test_a_shallow_look_gives_the_same_logits():
    teacher = tiny_teacher()
    assert torch.equal(teacher.look(IMAGES, deep=False).logits, teacher.logits(IMAGES))


def test_the_head_is_the_last_linear_layer():
    teacher = tiny_teacher()
    assert teacher.head is teacher.network.network.classifier


@pytest.mark.parametrize(("size", "cells"), [(2, 2), ((3, 3), 3), (1, 1)])
def test_the_last_pooling_says_how_many_cells_it_leaves(size, cells):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(5), nn.AdaptiveAvgPool2d(size), nn.Flatten())
    assert Teacher(network, (0.5,), (0.5,)).pooled == cells


def test_a_network_without_linear_head_and_pooling_has_none():
    teacher = Teacher(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), (0.5,), (0.5,))
    assert teacher.head is None and teacher.pooled is None


def test_a_teacher_does_not_keep_the_statistics_that_it_gave_away():
    teacher = tiny_teacher()
    given = weakref.ref(teacher.look(IMAGES).moments[0][0])
    gc.collect()
    assert given() is None


def test_two_teachers_of_one_network_do_not_disturb_each_other():
    network = build_network("convnet-4-6", 1, 3)
    one, two = (Teacher(network, (mean,), (1.0,)) for mean in (0.0, 0.5))
    expected = one.look(IMAGES).moments[0][0]
    two.look(IMAGES)
    assert torch.equal(one.look(IMAGES).moments[0][0], expected)


def test_a_copy_of_the_network_learns_without_the_teacher_noticing():
    teacher = tiny_teacher()
    before = snapshot(teacher.network)
    student = copy.deepcopy(teacher.network.network).train().requires_grad_()
    student(IMAGES).sum().backward()
    assert same(snapshot(teacher.network), before)


def test_moving_gives_back_the_teacher_itself():
    teacher = tiny_teacher()
    assert teacher.to(torch.device("cpu")) is teacher


class AuxiliaryHead(ConvNet):
    """Like torchvision's Inception: a second head that only training uses."""

    def __init__(self):
        super().__init__((4,), channels=1, classes=3)
        self.auxiliary = nn.BatchNorm2d(4)


def test_a_batch_norm_that_evaluation_does_not_use_is_passed_over():
    teacher = Teacher(AuxiliaryHead(), (0.5,), (0.5,))
    seen = teacher.look(IMAGES)
    assert len(seen.moments) == len(seen.running) == 1


def test_a_batch_norm_that_remembers_nothing_is_not_counted():
    network = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten())
    assert Teacher(network, (0.5,), (0.5,)).batch_norms == 0
