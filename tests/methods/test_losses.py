import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng

from dfkd.methods.losses import batch_norm_gap, distillation, masked_adversarial, one_hot

TEACHER = torch.randn(6, 4, generator=rng(1)) * 2
STUDENT = torch.randn(6, 4, generator=rng(2)) * 2


def softmax(row, temperature=1.0):
    exponentials = [math.exp(value / temperature) for value in row]
    return [e / sum(exponentials) for e in exponentials]


def divergence(student_row, teacher_row, temperature=1.0):
    """KL(teacher || student) of one image, from the definition."""
    p, q = softmax(teacher_row, temperature), softmax(student_row, temperature)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def divergences(student, teacher, temperature=1.0):
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    return [divergence(s, t, temperature) for s, t in pairs]


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_distillation_is_the_mean_of_p_log_p_over_q_times_temperature_squared(temperature):
    expected = sum(divergences(STUDENT, TEACHER, temperature)) / 6 * temperature**2
    assert distillation(STUDENT, TEACHER, temperature).item() == pytest.approx(expected, rel=1e-4)


@given(st.floats(-50, 50))
def test_distillation_ignores_a_constant_shift_of_the_logits(shift):
    assert distillation(TEACHER + shift, TEACHER).item() == pytest.approx(0, abs=1e-5)


@given(st.integers(0, 2**32), st.floats(0.5, 30))
def test_distillation_is_never_negative(seed, temperature):
    logits = torch.randn(2, 5, 3, generator=rng(seed)) * 5
    assert distillation(logits[0], logits[1], temperature) >= -1e-4


def test_distillation_at_high_temperature_is_half_the_square_error_of_centered_logits():
    student, teacher = STUDENT.double(), TEACHER.double()
    gap = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = gap.square().mean() / 2
    assert distillation(student, teacher, 1e3).item() == pytest.approx(expected.item(), rel=1e-2)


def test_distillation_moves_the_student_to_the_teacher():
    student = STUDENT.clone().requires_grad_()
    sgd = torch.optim.SGD([student], lr=1.0)
    for _ in range(200):
        sgd.zero_grad()
        distillation(student, TEACHER).backward()
        sgd.step()
    assert torch.allclose(student.softmax(1), TEACHER.softmax(1), atol=0.05)


def test_distillation_survives_logits_that_are_far_apart():
    assert distillation(TEACHER * 1e4, -TEACHER * 1e4).isfinite()


def test_one_hot_is_minus_the_mean_log_probability_of_the_wanted_class():
    target = [0, 1, 2, 3, 0, 1]
    rows = zip(TEACHER.tolist(), target, strict=True)
    expected = -sum(math.log(softmax(row)[y]) for row, y in rows) / 6
    assert one_hot(TEACHER, torch.tensor(target)).item() == pytest.approx(expected, rel=1e-5)


def test_one_hot_of_a_sure_and_right_teacher_is_zero():
    assert one_hot(100 * torch.eye(4), torch.arange(4)).item() == pytest.approx(0, abs=1e-6)


def test_one_hot_of_an_undecided_teacher_is_the_log_of_the_number_of_classes():
    loss = one_hot(torch.zeros(5, 4), torch.tensor([0, 1, 2, 3, 3]))
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)


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


def moments(mean, variance):
    return torch.tensor(mean), torch.tensor(variance)


def test_the_batch_norm_gap_is_a_norm_and_not_its_square():
    batch, running = [moments([3.0, 4.0], [1.0, 1.0])], [moments([0.0, 0.0], [1.0, 1.0])]
    assert batch_norm_gap(batch, running).item() == pytest.approx(5)


def test_the_batch_norm_gap_adds_means_and_variances():
    batch, running = [moments([3.0, 4.0], [1.0, 9.0])], [moments([0.0, 0.0], [7.0, 1.0])]
    assert batch_norm_gap(batch, running).item() == pytest.approx(5 + 10)


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 5 + 10), ("mean", (5 + 10) / 2)])
def test_the_batch_norm_gap_is_reduced_over_layers_as_asked(reduction, expected):
    batch = [moments([3.0, 4.0], [1.0, 1.0]), moments([10.0], [1.0])]
    running = [moments([0.0, 0.0], [1.0, 1.0]), moments([0.0], [1.0])]
    assert batch_norm_gap(batch, running, reduction).item() == pytest.approx(expected)


def test_the_batch_norm_gap_of_equal_statistics_is_zero():
    layers = [moments([3.0, 4.0], [1.0, 2.0])] * 3
    assert batch_norm_gap(layers, layers) == 0


def test_the_batch_norm_gap_of_equal_statistics_has_a_finite_gradient():
    mean, variance = moments([3.0, 4.0], [1.0, 2.0])
    mean.requires_grad_()
    batch_norm_gap([(mean, variance)], [(mean.detach().clone(), variance)]).backward()
    assert mean.grad.isfinite().all()


def test_the_batch_norm_gap_refuses_statistics_of_another_network():
    layer = moments([3.0], [1.0])
    with pytest.raises(ValueError, match="zip"):
        batch_norm_gap([layer, layer], [layer])
