"""Which classes a task means, and which of them data mean."""

import pytest
import yaml
from small_tasks import tree

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces import classes as module
from dfkd.search_spaces.classes import Classes, find_classes, label_of, renumbering
from dfkd.search_spaces.task import parse_task

TENCH, CRANE, DOG = "n01440764", "n02012849", "n02084071"  # the last: not of the thousand


def parse(declared):
    return parse_task(yaml.safe_dump(tree({"classes": declared})), "mine.yaml")


def refused(declared):
    with pytest.raises(ConfigError) as refusal:
        parse(declared)
    return refusal.value.problems


def test_names_are_taken_as_they_are():
    task = parse(["one", "two"])
    assert (task.classes, task.class_ids) == (("one", "two"), ("", ""))


def test_wordnet_ids_get_their_english_names():
    task = parse([TENCH, "mine", CRANE])
    assert task.classes == ("tench", "mine", "crane bird")
    assert task.class_ids == (TENCH, "", CRANE)


def test_an_id_beyond_the_thousand_classes_has_the_first_of_its_lemmas():
    assert find_classes([DOG, TENCH]).names == ("dog", "tench")


def test_imagenet_is_a_thousand_classes_in_the_order_of_their_ids():
    found = find_classes("imagenet")
    assert len(found.names) == len(found.ids) == 1000
    assert list(found.ids) == sorted(set(found.ids))
    assert (found.names[0], found.ids[0], found.names[-1]) == ("tench", TENCH, "toilet paper")


def test_names_of_imagenet_fit_their_ids():
    """Of an independent table: the first lemma of WordNet is the name of half of the classes."""
    found = find_classes("imagenet")
    lemmas = [module._lemmas()[id].casefold().split(", ") for id in found.ids]
    same = [name.casefold() in known for name, known in zip(found.names, lemmas, strict=True)]
    assert sum(same) > 500
    pairs = zip(found.names[:-1], lemmas[1:], strict=True)
    shifted = [name.casefold() in known for name, known in pairs]
    assert sum(shifted) < 20


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ("imagnet", "no list 'imagnet'. Did you mean 'imagenet'?"),
        ([TENCH, CRANE, TENCH], f"classes lists {TENCH} more than once"),
        ([TENCH, "n99999999"], "n99999999, which is no WordNet id"),
        (7, "classes must be a list, or the name of one, got 7"),
        ({"a": 1}, "classes must be a list"),
    ],
)
def test_classes_that_cannot_be_found_are_told_of(declared, told):
    (problem,) = refused(declared)
    assert told in problem


def test_without_timm_its_absence_is_told(monkeypatch):
    for table in (module._imagenet_ids, module._lemmas):
        table.cache_clear()
    monkeypatch.setattr(module, "packaged_file", lambda package, file: None)
    assert "pip install 'timm>=1'" in refused([TENCH, CRANE])[0]


def test_a_name_or_an_id_means_its_class():
    known = Classes(("tench", "missile", "missile"), (TENCH, CRANE, DOG))
    assert [label_of(name, known) for name in ("Tench", TENCH, DOG)] == [0, 0, 2]


def test_a_name_that_two_classes_have_means_neither():
    assert label_of("missile", Classes(("missile", "missile"))) is None


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["a", "x"], ["a", "a"]])
def test_other_classes_than_the_tasks_are_not_renumbered(names):
    assert renumbering(names, Classes(("a", "b"))) is None
