import dataclasses
import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfkd.methods.errors import ConfigError
from dfkd.methods.nayer import NayerSettings
from dfkd.methods.settings import build, check, coerce, describe, problems, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Oven:
    degrees: float = setting(180.0, "heat", above=0, at_most=300)
    minutes: int = setting(30, "how long", at_least=1)
    fan: bool = setting(False, "moving air")
    rack: str = setting("middle", "where", choices=("top", "middle", "bottom"))
    dish: str = setting("bread", "what")

    def __post_init__(self):
        check(self)


OVENS = st.builds(
    Oven,
    degrees=st.floats(0, 300, exclude_min=True),
    minutes=st.integers(1, 10**6),
    fan=st.booleans(),
    rack=st.sampled_from(["top", "middle", "bottom"]),
    dish=st.text(),
)


@given(OVENS)
def test_settings_survive_a_json_round_trip(oven):
    assert build(Oven, json.loads(json.dumps(dataclasses.asdict(oven))), "oven") == oven


@given(OVENS)
def test_settings_survive_a_round_trip_through_key_equals_value(oven):
    typed = {name: str(value) for name, value in dataclasses.asdict(oven).items()}
    assert build(Oven, typed, "oven") == oven


def test_what_is_not_named_keeps_its_default():
    assert build(Oven, {"minutes": 5}, "oven") == Oven(minutes=5)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"degrees": 0}, "degrees must be above 0, got 0"),
        ({"degrees": 301}, "degrees must be at most 300, got 301"),
        ({"degrees": "nan"}, "degrees must be finite, got 'nan'"),
        ({"degrees": float("inf")}, "degrees must be finite, got inf"),
        ({"degrees": True}, "degrees must be a number, got True"),
        ({"degrees": "hot"}, "degrees must be a number, got 'hot'"),
        ({"degrees": None}, "degrees needs a value, degrees=VALUE"),
        ({"degrees": [180]}, "degrees must be a number, got [180]"),
        ({"minutes": 0}, "minutes must be at least 1, got 0"),
        ({"minutes": 1.5}, "minutes must be a whole number, got 1.5"),
        ({"minutes": "inf"}, "minutes must be a whole number, got 'inf'"),
        ({"fan": 1}, "fan must be true or false, got 1"),
        ({"fan": "yes"}, "fan must be true or false, got 'yes'"),
        ({"rack": "floor"}, "rack must be one of top, middle, bottom, got 'floor'"),
        ({"rack": 2}, "rack must be a word, got 2"),
    ],
)
def test_a_bad_value_is_refused_with_the_reason_and_the_value(values, reason):
    assert problems(Oven, values, "oven") == [f"oven: {reason}"]


@pytest.mark.parametrize("value", [300, 300.0, "300", "3e2"])
def test_bounds_that_are_reached_are_kept(value):
    assert build(Oven, {"degrees": value}, "oven").degrees == 300.0


def test_an_unknown_setting_is_told_the_nearest_one():
    (problem,) = problems(Oven, {"minuts": 3}, "oven")
    assert problem.startswith("oven: no setting 'minuts'. Did you mean 'minutes'?")


def test_all_problems_are_found_at_once():
    with pytest.raises(ConfigError) as caught:
        build(Oven, {"degrees": -1, "minuts": 3, "rack": "floor"}, "oven")
    assert len(caught.value.problems) == 3


def test_good_values_have_no_problems():
    assert problems(Oven, {"degrees": 200, "fan": "True"}, "oven") == []


@pytest.mark.parametrize("values", [{"degrees": -1.0}, {"minutes": 0}, {"rack": "floor"}])
def test_an_instance_out_of_bounds_cannot_be_made(values):
    with pytest.raises(ConfigError, match=f"Oven: {next(iter(values))} must be"):
        Oven(**values)


@pytest.mark.parametrize(
    ("value", "wanted", "expected"),
    [
        (3, float, 3.0),
        ("0.1", float, 0.1),
        (4.0, int, 4),
        ("1e3", int, 1000),
        ("TRUE", bool, True),
        ("false", bool, False),
        ("top", str, "top"),
    ],
)
def test_a_value_is_taken_as_the_type_that_is_wanted(value, wanted, expected):
    taken = coerce(value, wanted)
    assert (taken, type(taken)) == (expected, wanted)


@given(st.integers(-(2**53), 2**53))
def test_whole_numbers_and_their_text_are_taken_alike(number):
    assert coerce(number, int) == coerce(str(number), int) == number


@given(st.floats(allow_nan=False))
def test_no_digit_of_a_float_is_lost(number):
    assert coerce(repr(number), float) == coerce(number, float) == number


def test_no_digit_of_a_large_whole_number_is_lost():
    assert coerce(2**53 + 1, int) == 2**53 + 1


def test_a_number_too_large_for_a_float_is_a_problem_and_not_a_crash():
    assert len(problems(Oven, {"degrees": 10**400}, "oven")) == 1


@pytest.mark.parametrize("name", [1, True, None])  # YAML reads `on:` as True and `~:` as None
def test_a_name_that_is_not_text_is_a_problem_and_not_a_crash(name):
    assert len(problems(Oven, {name: 1}, "oven")) == 1


@pytest.mark.parametrize("values", [{"minutes": "5"}, {"minutes": 5.0}, {"fan": "true"}])
def test_an_instance_is_refused_or_has_the_declared_types(values):
    try:
        oven = Oven(**values)
    except ConfigError:
        return
    assert all(type(getattr(oven, name)) is type(getattr(Oven(), name)) for name in values)


def test_settings_are_described_in_the_order_of_their_declaration():
    assert list(describe(Oven)) == ["degrees", "minutes", "fan", "rack", "dish"]


def test_a_description_holds_type_default_and_help():
    fan = describe(Oven)["fan"]
    assert (fan.name, fan.type, fan.default, fan.bounds.help) == ("fan", bool, False, "moving air")


def test_what_a_method_adds_comes_after_what_all_share():
    names = list(describe(NayerSettings))
    assert names.index("kd_steps") < names.index("batch_size")
