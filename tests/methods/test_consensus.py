import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfkd.methods.consensus import consensus, fit

STUDENTS, POOLS = 6, 9


def agreeing(students=STUDENTS, pools=POOLS):
    """Divergences [students, pools] in which all pools say the same, each at a level of its own."""
    return np.outer(np.geomspace(0.1, 2, students), np.geomspace(0.3, 3, pools))


def scattered(seed, noise=0.3):
    rng = np.random.default_rng(seed)
    return agreeing() * np.exp(noise * rng.standard_normal((STUDENTS, POOLS)))


def order(divergences):
    return list(fit(divergences).divergences.argsort())


def test_pools_that_agree_are_averaged_geometrically():
    expected = np.exp(np.log(agreeing()).mean(1))
    assert fit(agreeing()).divergences == pytest.approx(expected, rel=1e-3)


def test_one_student_alone_gets_the_geometric_mean():
    assert fit(np.array([[0.1, 0.4, 1.6]])).divergences == pytest.approx(0.4, rel=1e-4)


def test_a_perfect_student_is_at_no_distance():
    divergences = np.vstack([np.zeros(POOLS), scattered(0)])
    assert fit(divergences).divergences[0] == pytest.approx(0, abs=1e-5)


def test_a_pool_of_large_divergences_does_not_outvote_the_others():
    divergences = scattered(1, noise=0.1)
    divergences[:, 0] = 1000 * divergences[::-1, 0]
    assert list(divergences.mean(1).argsort()) == list(reversed(range(STUDENTS)))
    assert order(divergences) == list(range(STUDENTS))


def test_a_pool_that_contradicts_the_others_weighs_least():
    divergences = scattered(1, noise=0.1)
    divergences[:, 4] = divergences[::-1, 4]
    weights = fit(divergences).weights
    assert weights.sum() == pytest.approx(1)
    assert weights.argmin() == 4
    assert weights[4] < 0.2 / POOLS


def test_a_pool_that_tells_nobody_apart_weighs_less_than_one_that_does():
    divergences = scattered(1, noise=0.1)
    divergences[:, 4] = np.exp(0.1 * np.random.default_rng(3).standard_normal(STUDENTS))
    assert fit(divergences).weights.argmin() == 4


def test_the_many_pools_of_one_maker_do_not_outvote_the_others():
    crowd, others = agreeing(pools=12)[::-1], agreeing(pools=3)
    makers = ["crowd"] * 12 + ["one", "another", "third"]
    divergences = np.hstack([crowd, others])
    assert order(divergences) == list(reversed(range(STUDENTS)))
    assert list(fit(divergences, makers).divergences.argsort()) == list(range(STUDENTS))


def test_one_maker_alone_is_as_if_each_pool_had_a_maker_of_its_own():
    apart, alone = fit(scattered(2)), fit(scattered(2), ["one"] * POOLS)
    assert alone.divergences == pytest.approx(apart.divergences)


@pytest.mark.parametrize("pool", [0, POOLS - 1], ids=["the easiest", "the hardest"])
def test_nobody_gains_or_loses_by_a_pool_that_may_not_judge_them(pool):
    divergences = agreeing()
    divergences[2, pool] = np.nan
    assert fit(divergences).divergences == pytest.approx(fit(agreeing()).divergences, rel=1e-2)


@given(st.integers(0, 99), st.integers(0, STUDENTS - 1), st.floats(0.5, 0.99))
def test_who_is_nearer_on_every_pool_is_nearer(seed, whose, share):
    divergences = scattered(seed)
    found = fit(np.vstack([divergences, share * divergences[whose]])).divergences
    assert found[-1] < found[whose]


@given(st.integers(0, 99), st.floats(0.1, 10))
def test_divergences_in_another_unit_are_consensus_in_that_unit(seed, unit):
    found, other = fit(scattered(seed)), fit(unit * scattered(seed))
    assert other.divergences == pytest.approx(unit * found.divergences, rel=1e-3)


@given(st.permutations(range(STUDENTS)), st.permutations(range(POOLS)))
def test_the_order_of_students_and_pools_does_not_matter(students, pools):
    found = fit(scattered(5)).divergences
    assert fit(scattered(5)[students][:, pools]).divergences == pytest.approx(found[students])


@pytest.mark.parametrize("divergences", [np.ones((3, 4)), np.zeros((3, 4)), np.ones((1, 1))])
def test_students_that_nothing_tells_apart_get_the_same(divergences):
    found = fit(divergences).divergences
    assert found == pytest.approx(divergences[:, 0], abs=1e-5)


def test_juries_drawn_again_from_pools_that_agree_choose_the_same():
    assert (fit(agreeing()).resampled(200).argmin(1) == 0).all()


def test_juries_drawn_again_from_pools_that_disagree_do_not():
    divergences = agreeing(2, 10)
    divergences[:, ::2] = divergences[::-1, ::2]
    share = (fit(divergences).resampled(1000).argmin(1) == 0).mean()
    assert 0.3 < share < 0.7


def test_a_jury_without_any_pool_that_may_judge_a_student_does_not_choose_it():
    divergences = agreeing(3, 2)
    divergences[0, 1] = np.nan
    assert np.isinf(fit(divergences).distances(np.array([[0.0, 2.0]]))[0, 0])


def test_pools_are_matched_by_name():
    by_name = {"a": {"p": 0.1, "q": 1.0}, "b": {"q": 2.0, "r": 4.0}, "c": {"p": 0.3, "r": 3.0}}
    nan = np.nan
    expected = fit(np.array([[0.1, 1.0, nan], [nan, 2.0, 4.0], [0.3, nan, 3.0]]))
    assert list(consensus(by_name, {}).divergences) == list(expected.divergences)


@pytest.mark.parametrize("answer", [np.nan, np.inf, 1e30])
def test_a_student_whose_answers_are_no_numbers_is_the_last(answer):
    rows = [*scattered(1, noise=0.1), np.full(POOLS, answer)]
    by_name = {str(i): dict(zip("abcdefghi", row, strict=True)) for i, row in enumerate(rows)}
    found = consensus(by_name, {}).divergences
    assert np.isfinite(found).all()
    assert list(found.argsort()) == list(range(STUDENTS + 1))


def test_makers_are_matched_by_name():
    by_name = {"a": {"p": 0.1, "q": 1.0, "r": 1.0}, "b": {"p": 2.0, "q": 2.0, "r": 4.0}}
    found = consensus(by_name, {"p": "m", "q": "m"})
    assert list(found.shares) == [0.5, 0.5, 1.0]
