import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn
from workbenches import tiny_teacher

from dfkd.methods import BN, CONTROL, FEATURES, MAPS, METHODS, load_method
from dfkd.methods.errors import ConfigError
from dfkd.methods.teacher import Teacher

PUBLISHED = [name for name in METHODS if name != CONTROL]


@pytest.mark.parametrize("name", METHODS)
def test_every_listed_method_loads_as_a_class_of_its_name(name):
    assert load_method(name).__name__.lower() == name.replace("_", "")


@pytest.mark.parametrize("name", METHODS)
def test_every_listed_method_has_tests_that_inherit_the_contract(name):
    tests = Path(__file__).with_name(f"test_{name}.py").read_text()
    contract = rf"class \w+\(\w*Contract\):\n    method = {load_method(name).__name__}\n"
    assert re.search(contract, tests)


@pytest.mark.parametrize("name", METHODS)
def test_every_listed_method_is_summarized_in_a_line(name):
    summary = METHODS[name].summary
    assert summary and len(summary) <= 80 and summary == summary.strip(" .\n")


@pytest.mark.parametrize("name", METHODS)
def test_every_listed_method_lies_in_the_file_of_its_name(name):
    assert METHODS[name].where.startswith(f"dfkd.methods.{name}:")


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_listed_method_cites_a_paper_that_can_be_found(name):
    paper = METHODS[name].paper
    assert re.search(r"arXiv \d{4}\.\d{5}|DOI 10\.\d{4,}/", paper)
    assert f" {METHODS[name].year}," in paper


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_listed_method_is_older_than_distillation_without_data(name):
    arxiv = re.search(r"arXiv (\d{2})(\d{2})\.", METHODS[name].paper)
    assert 2017 <= METHODS[name].year <= 2030
    assert arxiv is None or 2000 + int(arxiv[1]) <= METHODS[name].year


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_docstring_of_a_method_cites_what_the_list_does(name):
    arxiv = re.search(r"arXiv (\d{4}\.\d{5})", METHODS[name].paper)
    where = METHODS[name].where.partition(":")[0]
    if arxiv is not None:
        assert arxiv[1] in importlib.import_module(where).__doc__


def objections(name, teacher):
    """What a method with its own settings has against a teacher, in one text."""
    method = load_method(name)
    return " ".join(method.objections(method.settings_class(), teacher))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_objects_to_a_teacher_without_batch_norm_if_it_needs_one(name):
    teacher = tiny_teacher(name="convnet-4-nobn")
    assert ("no BatchNorm" in objections(name, teacher)) == (BN in METHODS[name].needs)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_objects_to_a_teacher_without_linear_head_if_it_needs_features(name):
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1))
    found = objections(name, Teacher(network, (0.5,), (0.5,)))
    assert "linear" in found or FEATURES not in METHODS[name].needs
    assert "linear" not in found or {FEATURES, MAPS} & set(METHODS[name].needs)


def test_the_control_is_a_listed_method():
    assert CONTROL in METHODS


def test_an_unknown_method_is_told_the_nearest_one():
    with pytest.raises(ConfigError, match=r"no method 'nayr'\. Did you mean 'nayer'"):
        load_method("nayr")


def test_listing_methods_does_not_import_torch():
    code = "import sys, dfkd.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
