import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfkd.search_spaces.dimensions import (
    Choice,
    Real,
    Whole,
    declaration,
    ends,
    parse_dimension,
)

positive = st.floats(1e-6, 1e6)
options = st.lists(st.booleans() | st.integers() | positive | st.text(), min_size=1, max_size=5)
dimensions = st.one_of(
    st.builds(lambda low, more, log: Real(low, low + more, log), positive, positive, st.booleans()),
    st.builds(
        lambda low, more, log: Whole(low, low + more, log),
        st.integers(1, 1000),
        st.integers(1, 1000),
        st.booleans(),
    ),
    st.builds(lambda values: Choice(tuple(values)), options),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["low", "high", "log", "whole", "x"]), inner)
    ),
    max_leaves=6,
)


@given(dimensions)
def test_what_a_dimension_declares_is_read_back_as_itself(dimension):
    assert parse_dimension(declaration(dimension)) == dimension


@given(anything)
def test_whatever_is_declared_gives_a_dimension_or_a_reason(declared):
    try:
        assert isinstance(parse_dimension(declared), Real | Whole | Choice)
    except ValueError as reason:
        assert str(reason)


@pytest.mark.parametrize("key", [True, 3])
def test_a_key_that_yaml_does_not_read_as_text_gives_a_reason(key):
    with pytest.raises(ValueError, match=str(key)):
        parse_dimension({"low": 1, "high": 2, key: 4})


def test_a_list_gives_a_choice_in_its_order():
    assert parse_dimension([4, 1, 2]) == Choice((4, 1, 2))


def test_low_and_high_give_a_real_dimension():
    assert parse_dimension({"low": 1, "high": 4}) == Real(1.0, 4.0)


def test_whole_gives_whole_numbers():
    assert parse_dimension({"low": 1, "high": 4, "whole": True}) == Whole(1, 4)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert parse_dimension({"low": "1e-3", "high": 1}) == Real(0.001, 1.0)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ([], "options"),
        ([[1]], "numbers and words"),
        ([None], "numbers and words"),
        ("0.1", "options"),
        (3, "options"),
        (None, "options"),
        ({}, "low and high"),
        ({"low": 1}, "low and high"),
        ({"low": 2, "high": 1}, "low < high"),
        ({"low": 1, "high": 1}, "low < high"),
        ({"low": float("nan"), "high": 1}, "low < high"),
        ({"low": 0, "high": 1, "log": True}, "above 0"),
        ({"low": "few", "high": 1}, "numbers"),
        ({"low": 1, "high": 2.5, "whole": True}, "whole"),
        ({"low": 1, "high": 2, "step": 1}, "step"),
    ],
)
def test_a_mistake_is_refused_with_its_reason(declared, reason):
    with pytest.raises(ValueError, match=reason):
        parse_dimension(declared)


@pytest.mark.parametrize("dimension", [Real(0.5, 2.0), Whole(1, 4)])
def test_the_ends_of_a_range_bound_it(dimension):
    assert ends(dimension) == [dimension.low, dimension.high]


def test_the_ends_of_a_choice_are_all_its_options():
    assert ends(Choice((3, 1, 2))) == [3, 1, 2]


@given(dimensions)
def test_a_dimension_shows_all_its_ends(dimension):
    shown = str(dimension)
    as_shown = "{:g}" if isinstance(dimension, Real) else "{}"
    assert all(as_shown.format(end) in shown for end in ends(dimension))


def test_a_logarithmic_range_says_so():
    assert "log" in str(Real(0.1, 1.0, log=True))
    assert "log" not in str(Real(0.1, 1.0))
