import subprocess
import sys
from pathlib import Path

import pytest
from method_contract import MethodContract

from dfkd.methods import CONTROL, METHODS, load_method
from dfkd.methods.errors import ConfigError


@pytest.mark.parametrize("name", METHODS)
def test_every_listed_method_loads(name):
    assert load_method(name).__name__.lower() == name.replace("_", "")


@pytest.mark.parametrize("name", METHODS)
def test_every_listed_method_has_tests_that_inherit_the_contract(name):
    tests = Path(__file__).with_name(f"test_{name}.py").read_text()
    assert f"({MethodContract.__name__}):" in tests


@pytest.mark.parametrize("name", METHODS)
def test_every_listed_method_has_a_line_for_the_list(name):
    assert METHODS[name][1]


def test_the_control_is_a_listed_method():
    assert CONTROL in METHODS


def test_an_unknown_method_is_told_the_nearest_one():
    with pytest.raises(ConfigError, match=r"no method 'nayr'\. Did you mean 'nayer'"):
        load_method("nayr")


def test_listing_methods_does_not_import_torch():
    code = "import sys, dfkd.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
