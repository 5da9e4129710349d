import pytest
import torch
from workbenches import Trial, rng, tiny_network, tiny_teacher

from dfkd.methods.noise import Noise
from dfkd.methods.view import View

IMAGES = torch.rand(5, 1, 8, 8, generator=rng())


class Counted:
    """How often a network was called."""

    def __init__(self, network):
        self.calls = 0
        network.register_forward_pre_hook(self)

    def __call__(self, network, inputs):
        self.calls += 1


def view(images=IMAGES, target=None, *, adversarial=True, **bench):
    return View(Trial(Noise, {}, **bench).bench, images, target, adversarial, rng())


def test_nothing_is_computed_before_it_is_asked_for():
    teacher, network = tiny_teacher(), tiny_network()
    counted = Counted(teacher.network), Counted(network)
    view(teacher=teacher, network=network)
    assert [c.calls for c in counted] == [0, 0]


def test_what_the_teacher_sees_does_not_call_the_student():
    teacher, network = tiny_teacher(), tiny_network()
    counted = Counted(teacher.network), Counted(network)
    _ = view(teacher=teacher, network=network).teacher
    assert [c.calls for c in counted] == [1, 0]


def test_what_was_seen_once_is_not_computed_again():
    teacher, network = tiny_teacher(), tiny_network()
    counted = Counted(teacher.network), Counted(network)
    seen = view(teacher=teacher, network=network)
    assert seen.teacher is seen.teacher and seen.student is seen.student
    assert [c.calls for c in counted] == [1, 1]


def test_the_networks_see_the_images():
    seen = view()
    with seen.bench.student.frozen() as network:
        assert torch.equal(seen.student.logits, network(IMAGES))
    assert torch.equal(seen.teacher.logits, seen.bench.teacher.logits(IMAGES))


def test_what_layers_saw_can_be_asked_of_both():
    seen = view()
    assert len(seen.teacher.moments) == len(seen.student.moments) == 2


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_gradients_reach_the_images_and_no_weight(who):
    seen = view(IMAGES.clone().requires_grad_())
    with seen.bench.student.frozen():
        getattr(seen, who).logits.square().sum().backward()
    assert seen.images.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert all(p.grad is None for p in seen.bench.student.network.parameters())
    assert all(p.grad is None for p in seen.bench.teacher.network.parameters())


def test_labels_are_the_classes_that_were_asked_for():
    target = torch.arange(5) % 3
    assert view(target=target).labels is target


def test_a_batch_for_which_no_classes_were_asked_for_has_no_labels():
    with pytest.raises(AssertionError, match="no classes"):
        _ = view().labels
