import math

import pytest
import torch
from definitions import answers, divergences, softmax
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng

from dfkd.methods.losses import (
    activation,
    attention,
    attention_transfer,
    balance,
    confidence,
    distillation,
    divergence,
    entropy,
    logit_distance,
    one_hot,
    weighted,
)

TEACHER = torch.randn(6, 4, generator=rng(1)) * 2
STUDENT = torch.randn(6, 4, generator=rng(2)) * 2


# The sum of terms


def test_terms_are_summed_by_weight():
    total = weighted((2.0, lambda: torch.tensor(3.0)), (0.5, lambda: torch.tensor(-4.0)))
    assert total.item() == 2 * 3 - 0.5 * 4


def test_a_term_of_weight_zero_is_not_computed():
    assert weighted((0.0, lambda: 1 / 0), (1.0, lambda: torch.tensor(3.0))).item() == 3


def test_the_sum_of_nothing_is_zero_without_a_gradient():
    total = weighted((0.0, lambda: 1 / 0), (1.5 * False, lambda: 1 / 0))
    assert total.shape == () and total == 0 and not total.requires_grad


# What the student learns by


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_the_divergence_is_that_of_each_image(temperature):
    found = divergence(STUDENT.double(), TEACHER.double(), temperature).tolist()
    assert found == pytest.approx(divergences(STUDENT, TEACHER, temperature), rel=1e-9)


def test_the_divergence_is_not_symmetric():
    assert not torch.allclose(divergence(STUDENT, TEACHER), divergence(TEACHER, STUDENT))


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


def test_the_distance_of_the_logits_is_the_mean_of_their_absolute_differences():
    gaps = [
        abs(a - b)
        for a, b in zip(STUDENT.flatten().tolist(), TEACHER.flatten().tolist(), strict=True)
    ]
    assert logit_distance(STUDENT, TEACHER).item() == pytest.approx(sum(gaps) / 24, rel=1e-6)


def test_the_distance_of_the_logits_is_symmetric_and_zero_only_at_the_teacher():
    assert logit_distance(STUDENT, TEACHER) == logit_distance(TEACHER, STUDENT) > 0
    assert logit_distance(TEACHER, TEACHER.clone()) == 0


def test_the_distance_of_the_logits_counts_images_by_their_weights():
    weights = torch.tensor([2.0, 0.0, 0.5, 1.0, 0.0, 3.0])
    rows = zip(STUDENT.tolist(), TEACHER.tolist(), weights.tolist(), strict=True)
    gaps = [w * abs(a - b) for mine, theirs, w in rows for a, b in zip(mine, theirs, strict=True)]
    found = logit_distance(STUDENT, TEACHER, weights)
    assert found.item() == pytest.approx(sum(gaps) / 24, rel=1e-6)


def test_the_distance_of_the_logits_sees_a_constant_shift():
    assert logit_distance(TEACHER + 3, TEACHER).item() == pytest.approx(3, rel=1e-6)


def maps(seed, channels=2):
    """Feature maps of three images, two stages of different sizes."""
    draws = rng(seed)
    sizes = [(3, channels, 4, 5), (3, channels + 1, 2, 3)]
    return [torch.randn(size, generator=draws, dtype=torch.float64) for size in sizes]


def attention_by_hand(image):
    """The attention map of one image [K, h, w], by loops."""
    channels, height, width = image.shape
    cells = [
        sum(image[k, y, x].item() ** 2 for k in range(channels)) / channels
        for y in range(height)
        for x in range(width)
    ]
    norm = math.sqrt(sum(cell**2 for cell in cells))
    return [cell / norm for cell in cells]


def test_attention_is_the_mean_square_over_channels_of_unit_norm():
    found = attention(maps(0)[0])
    for row, image in zip(found.tolist(), maps(0)[0], strict=True):
        assert row == pytest.approx(attention_by_hand(image))


def test_attention_transfer_is_the_mean_square_error_of_the_maps_summed_over_stages():
    expected = 0.0
    for mine, theirs in zip(maps(1), maps(2, channels=4), strict=True):
        places = mine.shape[2] * mine.shape[3]
        for a, b in zip(mine, theirs, strict=True):
            pairs = zip(attention_by_hand(a), attention_by_hand(b), strict=True)
            expected += sum((x - y) ** 2 for x, y in pairs) / (3 * places)
    assert attention_transfer(maps(1), maps(2, channels=4)).item() == pytest.approx(expected)


@given(st.floats(0.01, 100))
def test_attention_transfer_does_not_care_how_strong_features_are(factor):
    louder = [factor * stage for stage in maps(1)]
    assert attention_transfer(louder, maps(1)).item() == pytest.approx(0, abs=1e-12)


def test_attention_transfer_of_dead_features_has_a_finite_gradient():
    dead = [torch.zeros_like(stage, requires_grad=True) for stage in maps(1)]
    loss = attention_transfer(dead, maps(1))
    loss.backward()
    assert loss.item() == pytest.approx(1 / 20 + 1 / 6)  # the unit norms of the teacher's maps
    assert all(stage.grad.isfinite().all() for stage in dead)


def test_attention_transfer_refuses_networks_of_another_number_of_stages():
    with pytest.raises(ValueError, match="zip"):
        attention_transfer(maps(1)[:1], maps(1))


# What makes an image a likely one to the teacher


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


def test_one_hot_counts_images_by_their_weights():
    target, weights = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1.0, 2, 0, 0.5, 1, 0])
    rows = zip(answers(TEACHER), target.tolist(), weights.tolist(), strict=True)
    expected = -sum(w * math.log(p[y]) for p, y, w in rows) / 6
    assert one_hot(TEACHER, target, weights).item() == pytest.approx(expected, rel=1e-5)
    assert one_hot(TEACHER, target, torch.ones(6)).item() == pytest.approx(
        one_hot(TEACHER, target).item(), rel=1e-6
    )


def test_confidence_is_minus_the_mean_log_of_the_largest_probability():
    expected = -sum(math.log(max(p)) for p in answers(TEACHER)) / 6
    assert confidence(TEACHER.double()).item() == pytest.approx(expected)


def test_confidence_makes_the_teacher_surer_of_what_it_decides():
    logits = TEACHER.clone().requires_grad_()
    confidence(logits).backward()
    chosen = TEACHER.argmax(1, keepdim=True)
    assert (logits.grad.gather(1, chosen) < 0).all()


def test_entropy_is_the_mean_of_minus_p_log_p():
    expected = -sum(a * math.log(a) for p in answers(TEACHER) for a in p) / 6
    assert entropy(TEACHER.double()).item() == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_entropy_lies_between_zero_and_the_log_of_the_number_of_classes(classes):
    assert entropy(torch.zeros(3, classes)).item() == pytest.approx(math.log(classes), rel=1e-5)
    assert entropy(1e4 * torch.eye(classes)).item() == pytest.approx(0, abs=1e-6)


def test_balance_is_minus_the_entropy_of_the_mean_answer():
    mean = [sum(column) / 6 for column in zip(*answers(TEACHER), strict=True)]
    expected = sum(a * math.log(a) for a in mean)
    assert balance(TEACHER.double()).item() == pytest.approx(expected)


@given(st.integers(0, 2**32), st.integers(2, 20))
def test_balance_lies_between_minus_the_log_of_the_number_of_classes_and_zero(seed, classes):
    logits = 5 * torch.randn(4, classes, generator=rng(seed))
    assert -math.log(classes) - 1e-5 <= balance(logits) <= 1e-6


def test_balance_is_lowest_where_sure_answers_are_of_all_classes_equally():
    assert balance(100 * torch.eye(4)).item() == pytest.approx(-math.log(4), rel=1e-5)


def test_balance_of_a_class_that_is_never_answered_is_finite():
    logits = torch.tensor([[0.0, -1e4, 0.0]]).repeat(5, 1).requires_grad_()  # p underflows to 0
    loss = balance(logits)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(2), rel=1e-5)
    assert logits.grad.isfinite().all()


def test_activation_is_the_mean_absolute_feature():
    features = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.5, -0.5]])
    assert activation(features).item() == pytest.approx(7 / 6)
