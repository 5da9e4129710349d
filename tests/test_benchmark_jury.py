"""What the jury's benchmark makes of students and pools."""

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
sys.path.insert(0, FOLDER)
try:
    import jury
    import jury_rules
finally:
    sys.path.remove(FOLDER)

STUDENTS = 5


@pytest.fixture
def judged():
    """Students from the nearest to the farthest, by two control pools and one pool of each."""
    distances = np.geomspace(0.1, 2, STUDENTS)
    divergence = np.outer(distances, np.geomspace(0.9, 1.1, STUDENTS + 2))
    owners = [None, None, *range(STUDENTS)]
    for student in range(STUDENTS):
        divergence[student, 2 + student] = np.nan
    return jury_rules.Judged(
        divergence=divergence,
        agreement=np.exp(-divergence),
        own=np.exp(-distances),
        families=["deepinversion", "fast", "nayer", "nayer", "fast", "dafl", "nayer"],
        owners=owners,
    )


@pytest.mark.parametrize("name", jury_rules.RULES)
def test_every_rule_prefers_the_student_that_is_nearest_on_all_pools(judged, name):
    scores = jury_rules.RULES[name](judged)
    assert scores.shape == (STUDENTS,)
    assert scores.argmax() == 0


@pytest.mark.parametrize(
    "name", sorted(set(jury_rules.RULES) - {"most often best in resampled juries"})
)
def test_every_rule_ranks_students_that_all_pools_rank_alike(judged, name):
    assert list(jury_rules.RULES[name](judged).argsort()) == list(reversed(range(STUDENTS)))


def test_a_sweep_is_judged_by_its_own_pools_and_the_control_pools(judged):
    sweep = judged.sweep([3, 1])
    assert list(sweep.owners) == [None, None, 1, 3]
    assert list(sweep.families) == ["deepinversion", "fast", "nayer", "dafl"]
    assert np.array_equal(sweep.divergence, judged.divergence[[3, 1]][:, [0, 1, 3, 5]], True)


def test_the_right_choice_costs_nothing_and_any_other_what_the_best_has_more():
    accuracy = np.array([0.9, 0.7, 0.8])
    assert jury.lost_by(accuracy, accuracy) == 0
    assert jury.lost_by(-accuracy, accuracy) == pytest.approx(20)
    assert jury.lost_by(None, accuracy) == pytest.approx(10)  # any of them


def test_a_student_without_a_score_is_not_chosen():
    accuracy = np.array([0.9, 0.7])
    assert jury.lost_by(np.array([np.nan, 0.1]), accuracy) == pytest.approx(20)
    assert jury.regret(np.array([np.nan, 0.1]), accuracy) == 0  # nor is it a candidate


def figures(everyone, of_eight):
    return jury.Figures(everyone, None, None, 0.2, of_eight, 0.4)


def test_over_all_courts_the_mean_stands_beside_the_worst():
    text = jury.overall(
        {"one": {"a rule": figures(0.9, 0.1)}, "two": {"a rule": figures(0.7, 0.3)}}
    )
    assert "| a rule | 0.80 (0.70) |  | 0.20 (0.20) | 0.20 (0.30) | 0.40 (0.40) |" in text


def test_columns_on_more_images_are_shown_where_there_are_any():
    few = jury.Figures(0.9, 0.8, 0.7, 0.2, 0.3, 0.4, 0.95, 0.85, 0.1)
    assert "more images" in jury.table({"a rule": few})
    assert "more images" not in jury.table({"a rule": figures(0.9, 0.1)})


def test_how_sure_choices_were_is_told_by_task():
    sweeps = np.array([[0.4, 0, 1.0], [0.99, 1, 0.0], [1.0, 0, 0.5]])
    text = jury.sureness([("digits", sweeps), ("mnist", sweeps[:1])])
    assert "| 0 to 50 % | 0 %; 1.00 (n = 1) | 0 %; 1.00 (n = 1) |" in text
    assert "| 95 to 100 % | 50 %; 0.25 (n = 2) |  |" in text
