"""What a base brings to a task, and how both travel as one text."""

import copy

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_tasks import tree, without

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.requests import definition_name
from dfkd.search_spaces.bases import KEYS, merged, shipped_bases
from dfkd.search_spaces.dimensions import Choice
from dfkd.search_spaces.task import load_task, parse_task

BASE = {
    "recipe": {"temperature": 9.0, "momentum": 0.5},
    "search": {"temperature": [9.0], "momentum": [0.5, 0.9]},
    "methods": {
        "nayer": {"recipe": {"rounds": 3, "noise_std": 2.0}, "search": {"noise_std": [1.0, 2.0]}},
        "fast": {"search": {"latent": [16, 64]}},
    },
}


def based(changes=None, base=BASE):
    """A task on a base of its own, as one text."""
    own = {**tree(changes), "base": "mine"}
    return yaml.safe_dump(own) + "---\n" + yaml.safe_dump(base)


def parse(changes=None, base=BASE):
    return parse_task(based(changes, base), "mine.yaml")


def refused(text):
    with pytest.raises(ConfigError) as refusal:
        parse_task(text, "mine.yaml")
    return " ".join(refusal.value.problems)


# What ships


@pytest.mark.parametrize("name", sorted(shipped_bases()))
def test_a_shipped_base_holds_what_bases_may(name):
    assert set(yaml.safe_load(shipped_bases()[name])) <= set(KEYS)


def test_a_shipped_task_is_printed_with_its_base_behind_it():
    text = load_task("digits").text
    assert text.count("\n---") == 1
    assert shipped_bases()["small"] in text


def test_what_is_printed_is_the_task_again_with_its_base_or_without():
    task = load_task("digits")
    assert parse_task(task.text, "again") == task
    alone = task.text.partition("\n---")[0]
    assert parse_task(alone, "again") == task


def test_a_base_that_is_changed_beside_its_task_goes_before_the_shipped_one():
    text = load_task("digits").text.replace("reinit_every: [1, 2, 4, 0]", "reinit_every: [1, 7]")
    assert parse_task(text, "mine").space("nayer").search["reinit_every"] == Choice((1, 7))


def test_the_name_of_a_task_is_found_in_a_text_with_a_base():
    assert definition_name({"task": load_task("digits").text}) == "digits"


# What goes before what


def test_what_a_task_says_goes_before_its_base():
    assert parse().shared.recipe["temperature"] == 2.0


def test_what_a_task_does_not_say_is_its_bases():
    assert parse().shared.recipe["momentum"] == 0.5
    assert parse().space("fast").search["latent"] == Choice((16, 64))


def test_a_method_gets_the_settings_of_both():
    recipe = parse().space("nayer").recipe
    assert (recipe["rounds"], recipe["noise_std"], recipe["batch_size"]) == (1, 2.0, 10)


def test_a_dimension_of_the_base_can_be_left_unsearched():
    assert "momentum" in parse().shared.search
    assert "momentum" not in parse({"search.momentum": None}).shared.search


def test_a_dimension_that_no_base_has_cannot_be_null():
    assert "search.momentum must" in refused(yaml.safe_dump(tree({"search.momentum": None})))


names = st.sampled_from(["a", "b", "c"])
numbers = st.dictionaries(names, st.integers(0, 9), max_size=3)
spaces = st.fixed_dictionaries({"recipe": numbers, "search": numbers})
trees = st.fixed_dictionaries(
    {"recipe": numbers, "search": numbers, "methods": st.dictionaries(names, spaces, max_size=3)}
)


@given(base=trees, own=trees)
def test_merging_keeps_all_that_either_says_and_changes_neither(base, own):
    before = copy.deepcopy((base, own))
    both = merged(base, own)
    assert (base, own) == before
    for key in ("recipe", "search"):
        assert both[key] == {**base[key], **own[key]}
    assert set(both["methods"]) == set(base["methods"]) | set(own["methods"])
    for name, space in own["methods"].items():
        assert space["recipe"].items() <= both["methods"][name]["recipe"].items()


@given(own=trees)
def test_merging_with_a_base_of_nothing_changes_nothing(own):
    assert merged({}, own) == own


# Mistakes


def test_an_unknown_base_gets_the_nearest_known_one():
    told = refused(yaml.safe_dump({**tree(), "base": "smal"}))
    assert "no base 'smal'. Did you mean 'small'?" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (based(base=["recipe"]), "base mine must be a mapping of keys"),
        (based(base={"recpe": {}}), "no key 'recpe'. Did you mean 'recipe'"),
        (based(base={"task": "other"}), "no key 'task'"),
        (based() + "---\na: 1\n", "several YAML documents"),
        (yaml.safe_dump(tree()) + "---\nrecipe: {}\n", "several YAML documents"),
        (based(base={"recipe": [1]}), "recipe must be a mapping"),
        (based(base={"methods": {"nayr": {}}}), "Did you mean 'nayer'"),
        (based({"methods.nayer": ["x"]}), "methods.nayer holds recipe and search"),
        (based({"methods": ["x"]}), "methods must be a mapping"),
    ],
)
def test_a_base_that_cannot_be_used_is_told_of(text, told):
    assert told in refused(text)


def test_a_base_cannot_bring_what_a_task_must_say():
    text = yaml.safe_dump({**without("epochs"), "base": "small"})
    assert "epochs is missing" in refused(text)
