"""What docs/add-a-method.md says, executed: its method, its line in the table, its tests."""

import re
import sys
import types
from pathlib import Path

from small_tasks import write_task

from dfkd import methods
from dfkd.methods import Listed, load_method
from dfkd.orchestrator import distill

PAGE = Path(__file__).parents[1] / "docs" / "add-a-method.md"
FILE, LINE, TESTS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
NAME = "dfkd.methods.dfad_log"

module = types.ModuleType(NAME)
sys.modules[NAME] = module  # where dataclasses look their annotations up
exec(compile(FILE, str(PAGE), "exec"), module.__dict__)

written = {"DfadLog": module.DfadLog}
exec(compile(TESTS, str(PAGE), "exec"), written)
TestDfadLog = written["TestDfadLog"]  # collected like any other


def test_the_pages_method_runs_by_its_name_once_it_is_in_the_table(tmp_path, monkeypatch):
    (name, listed), *others = eval(f"{{{LINE}}}", {"Listed": Listed}).items()
    monkeypatch.setitem(methods.METHODS, name, listed)
    assert not others and load_method(name) is module.DfadLog
    settings = {"batch_size": 8, "generator_width": 2, "latent": 4, "adversarial_weight": "2"}
    task = write_task(tmp_path)
    result = distill(task, methods=(name,), settings=settings, storage=str(tmp_path), name="run")
    assert result.best.spec.method == name


def test_every_method_has_a_row_in_the_documents_and_a_line_in_the_readme():
    table = PAGE.with_name("methods.md").read_text()
    assert all(f"| `{name}` |" in table for name in methods.METHODS)
