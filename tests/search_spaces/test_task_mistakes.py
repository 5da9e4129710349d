"""Mistakes in a task file: what, which value, what next, and all at once."""

import pytest
import yaml
from small_tasks import STRIPES, tree, without

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.task import parse_task

REQUIRED = [
    key for key in STRIPES if key not in {"data", "recipe", "search", "methods", "teachers"}
]


def parse(changes=None):
    return parse_task(yaml.safe_dump(tree(changes)), "mine.yaml")


def problems_of(changes):
    with pytest.raises(ConfigError) as refusal:
        parse(changes)
    return refusal.value.problems


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key):
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        parse_task(yaml.safe_dump(without(key)), "mine.yaml")


@pytest.mark.parametrize("key", STRIPES)
def test_a_value_of_the_wrong_kind_is_shown_with_its_key(key):
    (problem,) = problems_of({key: 1.5})
    assert key in problem
    assert "1.5" in problem


@pytest.mark.parametrize(
    ("changes", "key", "nearest"),
    [
        ({"sumary": "x"}, "sumary", "summary"),
        ({"image.widht": 8}, "widht", "width"),
        ({"teacher.epoch": 8}, "epoch", "epochs"),
        ({"teachers.plain.shfit": 8}, "shfit", "shift"),
        ({"teachrs": {}}, "teachrs", "teachers"),
        ({"methods.nayr": {}}, "nayr", "nayer"),
        ({"normalize.sdt": [1.0]}, "sdt", "std"),
        ({"methods.nayer.recipes": {}}, "recipes", "recipe"),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(changes, key, nearest):
    (problem,) = problems_of(changes)
    assert f"'{key}'" in problem
    assert f"Did you mean '{nearest}'" in problem


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": ["one"]}, "classes must be at least two"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"image": {"channels": 1, "height": 6}}, "image.width is missing"),
        ({"image.width": 0}, "image.width must be at least 1, got 0"),
        ({"image.width": 6.5}, "image.width must be a whole number, got 6.5"),
        ({"normalize.mean": [0.1, 0.2]}, "normalize.mean must list one number per channel"),
        ({"normalize.std": [0.0]}, "normalize.std must be above 0, got [0.0]"),
        ({"normalize.std": ["much"]}, "normalize.std"),
        ({"normalize.std": []}, "normalize.std"),
        ({"teacher.epochs": "many"}, "teacher: epochs must be a number, got 'many'"),
        ({"teacher": {"epochs": 1}}, "teacher.network is missing"),
        ({"teachers": ["plain"]}, "teachers must be a mapping"),
        ({"teachers.plain": None}, "teachers.plain must be a mapping of keys, got None"),
        ({"teachers.plain.epochs": 0}, "teachers.plain: epochs must be at least 1, got 0"),
        ({"teachers.plain.seed": None}, "teachers.plain: seed needs a value"),
        ({"teachers": {7: {}}}, "a teacher's name must be a plain word without dots, got 7"),
        ({"methods.nayer": ["recipe"]}, "methods.nayer holds recipe and search"),
        ({"search.student_lr": {"low": 1}}, "search.student_lr must"),
        ({"methods.nayer.search.rounds": {}}, "methods.nayer.search.rounds must"),
    ],
)
def test_a_wrong_value_is_refused(changes, told):
    (problem,) = problems_of(changes)
    assert problem.startswith(f"mine.yaml: {told}")


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": True},
        {"image.channels": True},
        {"teacher.epochs": True},
        {"teacher.epochs": 0},
        {"teacher.batch_size": 0},
        {"teacher.shift": -1},
        {"teacher.learning_rate": -0.1},
        {"teachers": {"../plain": {}}},
        {"teachers": {"plain.pt": {}}},
        {"teachers": {"resnet:plain": {}}},
        {"teachers": {"": {}}},
        {"teachers.plain.flip": 1},
        {"normalize.std": [float("nan")]},
        {"normalize.mean": [float("inf")]},
        {"classes": [True, False]},  # what YAML makes of [yes, no]
        {"methods.nayer.recipe": [1]},
        {"task": "../mine"},
        {"task": ".mine"},
        {"normalize.mean": [True]},
        {"normalize.mean": "5"},
        {"search.temperature": {"low": 1, "high": float("inf")}},
        {"search.temperature": {"low": 1, "high": 2, "log": "no"}},
        {"search.temperature": [float("nan")]},
        {"recipe": {True: 1}},
    ],
    ids=str,
)
def test_a_value_that_cannot_work_is_refused_at_once(changes):
    with pytest.raises(ConfigError):
        parse(changes)


def test_a_methods_search_that_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match="search"):
        parse({"methods.nayer.search": ["student_lr"]})


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "!!python/object:os.system {}", "\t- x"])
def test_a_file_that_is_not_yaml_is_refused(text):
    with pytest.raises(ConfigError, match=r"mine.yaml: not YAML"):
        parse_task(text, "mine.yaml")


def test_a_date_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"mine.yaml"):
        parse_task("summary: 2024-13-45", "mine.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words"])
def test_a_file_without_keys_is_refused(text):
    with pytest.raises(ConfigError, match="mapping"):
        parse_task(text, "mine.yaml")


def test_all_missing_and_unknown_keys_are_told_at_once():
    text = yaml.safe_dump({"colour": "red", "shape": "round"})
    with pytest.raises(ConfigError) as refusal:
        parse_task(text, "mine.yaml")
    assert len(refusal.value.problems) == len(REQUIRED) + 2


def test_all_wrong_values_are_told_at_once():
    wrong = {
        "epochs": 0,
        "image.width": 0,
        "normalize.std": [],
        "teacher.seed": "x",
        "teachers.plain.seed": "x",
        "teachers.other.shift": -1,
        "search.student_lr": 3,
        "methods.nayr": {},
        "classes": [],
    }
    assert len(problems_of(wrong)) == len(wrong)


def test_class_names_that_yaml_misreads_are_to_be_quoted():
    with pytest.raises(ConfigError, match=r"got True, False; quote them"):
        parse_task(yaml.safe_dump(tree({"classes": []})).replace("[]", "[yes, no]"), "mine.yaml")


def test_unknown_keys_and_wrong_values_are_told_at_once():
    assert len(problems_of({"colour": "red", "epochs": 0})) == 2
