"""The losses over where teacher and student differ, and over how images differ."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from definitions import answers, divergences, kl, softmax
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng

from dfkd.methods.losses import (
    clamped_jensen_shannon,
    contrast,
    jensen_shannon,
    masked_adversarial,
)

TEACHER = torch.randn(6, 4, generator=rng(1)) * 2
STUDENT = torch.randn(6, 4, generator=rng(2)) * 2


def test_the_adversarial_loss_is_minus_the_divergence_where_both_decide_alike_over_all_images():
    student = torch.cat([TEACHER[:3] * 0.5, -TEACHER[3:]])  # three agree, three do not
    expected = -sum(divergences(student, TEACHER)[:3]) / 6
    assert masked_adversarial(student, TEACHER).item() == pytest.approx(expected, rel=1e-4)


def test_the_adversarial_loss_is_zero_where_nobody_agrees():
    assert masked_adversarial(-TEACHER, TEACHER) == 0


def test_the_adversarial_loss_of_a_perfect_student_is_zero():
    assert masked_adversarial(TEACHER, TEACHER.clone()).item() == pytest.approx(0, abs=1e-6)


def test_the_adversarial_loss_of_a_perfect_student_has_no_gradient():
    student, teacher = (TEACHER.clone().requires_grad_() for _ in range(2))
    masked_adversarial(student, teacher).backward()
    assert max(student.grad.abs().max(), teacher.grad.abs().max()) < 1e-6


@given(st.integers(0, 2**32))
def test_the_adversarial_loss_is_never_positive(seed):
    student, teacher = torch.randn(2, 8, 3, generator=rng(seed)) * 5
    assert masked_adversarial(student, teacher) <= 1e-5


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_the_adversarial_gradient_flows_through_both_networks(which):
    logits = {"student": TEACHER * 0.5, "teacher": TEACHER.clone()}
    logits[which].requires_grad_()
    masked_adversarial(**logits).backward()
    assert logits[which].grad.abs().max() > 1e-3


def test_images_on_which_both_disagree_get_no_adversarial_gradient():
    student = torch.cat([TEACHER[:3] * 0.5, -TEACHER[3:]]).requires_grad_()
    masked_adversarial(student, TEACHER).backward()
    assert student.grad[3:].count_nonzero() == 0


def test_the_adversarial_loss_counts_images_by_their_weights():
    student = torch.cat([TEACHER[:3] * 0.5, -TEACHER[3:]])  # three agree, three do not
    weights = torch.tensor([2.0, 0.0, 0.5, 9.0, 9.0, 9.0])
    pairs = zip(divergences(student, TEACHER), weights.tolist(), strict=True)
    expected = -sum(w * d for d, w in list(pairs)[:3]) / 6
    assert masked_adversarial(student, TEACHER, weights).item() == pytest.approx(expected, rel=1e-4)


def between(p, q):
    return [(a + b) / 2 for a, b in zip(p, q, strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_jensen_shannon_divergence_is_the_mean_divergence_from_the_middle(temperature):
    pairs = zip(answers(STUDENT, temperature), answers(TEACHER, temperature), strict=True)
    expected = sum((kl(p, between(p, q)) + kl(q, between(p, q))) / 2 for p, q in pairs) / 6
    found = jensen_shannon(STUDENT.double(), TEACHER.double(), temperature)
    assert found.item() == pytest.approx(expected)


@given(st.integers(0, 2**32), st.floats(0.1, 100))
def test_the_jensen_shannon_divergence_lies_between_zero_and_log_two(seed, scale):
    student, teacher = scale * torch.randn(2, 5, 4, generator=rng(seed))
    assert -1e-6 <= jensen_shannon(student, teacher) <= math.log(2) + 1e-6


def test_the_jensen_shannon_divergence_of_opposite_sure_answers_is_log_two():
    found = jensen_shannon(1e4 * torch.eye(4), 1e4 * torch.eye(4).roll(1, 0))
    assert found.item() == pytest.approx(math.log(2), rel=1e-5)


@given(st.integers(0, 2**32))
def test_the_jensen_shannon_divergence_is_symmetric(seed):
    a, b = 5 * torch.randn(2, 5, 4, generator=rng(seed))
    assert jensen_shannon(a, b).item() == pytest.approx(jensen_shannon(b, a).item(), abs=1e-6)


def test_the_jensen_shannon_divergence_of_equal_answers_is_zero_and_flat():
    student = TEACHER.clone().requires_grad_()
    loss = jensen_shannon(student, TEACHER)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7) and student.grad.abs().max() < 1e-6


def test_the_jensen_shannon_divergence_of_far_answers_has_a_finite_gradient():
    student = (1e4 * torch.eye(4)).requires_grad_()
    jensen_shannon(student, 1e4 * torch.eye(4).roll(1, 0)).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(("reduction", "divisor"), [("mean", 6 * 4), ("batchmean", 6)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_clamped_form_is_the_published_one(scale, reduction, divisor):
    def soft(logits):
        exponentials = np.exp(scale * logits.double().numpy() / 3)
        return exponentials / exponentials.sum(1, keepdims=True)

    p, q = soft(TEACHER), soft(STUDENT)
    p, q, m = (np.clip(x, 0.01, 0.99) for x in (p, q, (p + q) / 2))  # as ADI's code has it
    halves = [0.5 * (m * (np.log(m) - np.log(x))).sum() / divisor for x in (p, q)]
    student, teacher = scale * STUDENT.double(), scale * TEACHER.double()
    found = clamped_jensen_shannon(student, teacher, reduction=reduction)
    assert found.item() == pytest.approx(np.clip(sum(halves), 0, 1))


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_the_clamped_form_of_equal_answers_is_zero_and_flat(reduction):
    student = TEACHER.clone().requires_grad_()
    loss = clamped_jensen_shannon(student, TEACHER, reduction=reduction)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and student.grad.abs().max() < 1e-6


def test_the_clamped_form_sends_no_gradient_through_answers_that_are_sure():
    student = (1e3 * torch.eye(4)).requires_grad_()
    clamped_jensen_shannon(student, 1e3 * torch.eye(4).roll(1, 0)).backward()
    assert student.grad.count_nonzero() == 0


# Whether images differ from each other


def views(seed, count=5):
    return F.normalize(torch.randn(count, 4, generator=rng(seed), dtype=torch.float64), dim=1)


def contrast_by_hand(local, whole, temperature):
    """Per local view minus the log of the share that its own global one has of all."""
    losses = []
    for i, row in enumerate(local.tolist()):
        cosines = [sum(a * b for a, b in zip(row, other, strict=True)) for other in whole.tolist()]
        losses.append(-math.log(softmax(cosines, temperature)[i]))
    return losses


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_contrast_is_minus_the_log_share_of_ones_own_view(temperature):
    expected = sum(contrast_by_hand(views(1), views(2), temperature)) / 5
    assert contrast(views(1), views(2), 5, temperature).item() == pytest.approx(expected)


def test_in_contrast_new_images_and_past_ones_count_with_their_means():
    losses = contrast_by_hand(views(1), views(2), 0.2)
    expected = sum(losses[:2]) / 2 + sum(losses[2:]) / 3
    assert contrast(views(1), views(2), 2, 0.2).item() == pytest.approx(expected)


def test_contrast_of_views_that_are_all_alike_is_the_log_of_their_number():
    alike = views(1, count=1).repeat(6, 1)
    assert contrast(alike, alike, 6, 0.2).item() == pytest.approx(math.log(6))


def test_contrast_moves_the_local_views_alone():
    local, whole = views(1).requires_grad_(), views(2).requires_grad_()
    contrast(local, whole, 5, 0.2).backward()
    assert local.grad.abs().max() > 0 and whole.grad is None
