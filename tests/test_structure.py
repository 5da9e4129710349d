"""The shape of the code: who may import whom, how long things may get, and doctests."""

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("methods", "search_spaces", "orchestrator", "cli")  # each may import those before it
HOMES = {  # where a package may be imported; everywhere else it may not
    "ray": {"orchestrator"},
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"orchestrator", "cli"},
}

MAX_FILE_LINES = 400
LONGER = {"cli.py": 600}  # the whole command line is in one file, where a user looks for it
MAX_FUNCTION_LINES = 60  # without the docstring
MAX_ARGUMENTS = 6  # without self and cls; a command line's options are not counted at all

SOURCES = sorted(
    [*ROOT.glob("*.py"), *(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))]
)

Function = ast.FunctionDef | ast.AsyncFunctionDef

each_source = pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def module_name(path: Path) -> str:
    """`<root>/methods/nayer.py` -> `dfkd.methods.nayer`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("dfkd", *parts)).removesuffix(".__init__")


def layer_of(path: Path) -> str:
    """`methods`, `search_spaces`, `orchestrator`, `cli`, or nothing for the root's own file."""
    return module_name(path).partition(".")[2].partition(".")[0]


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every import, also those inside functions: its line, and `a.b.c` for `from a.b import c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def import_problem(name: str, layer: str) -> str | None:
    """What is wrong with importing `name` in `layer`, if anything."""
    top, _, rest = name.partition(".")
    target = rest.partition(".")[0]
    if not top:
        return "write imports in full: from dfkd..."
    if top in LAYERS:
        return f"import dfkd.{top}"
    if layer not in HOMES.get(top, {layer}):
        return f"{top} belongs to {', '.join(sorted(HOMES[top]))}"
    if top == "dfkd" and target in LAYERS:
        allowed = LAYERS[: LAYERS.index(layer) + 1] if layer in LAYERS else ()
        if target not in allowed:
            return f"{layer or 'dfkd/__init__.py'} must not know {target}"
    return None


@each_source
def test_imports_go_down_the_layers_only(path):
    found = imported_names(ast.parse(path.read_text()))
    problems = [(line, name, import_problem(name, layer_of(path))) for line, name in found]
    wrong = [f"{path}:{line}: {name}: {why}" for line, name, why in problems if why]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("dfkd.orchestrator.trials", "methods"),
        ("dfkd.search_spaces", "methods"),
        ("dfkd.cli", "orchestrator"),
        ("dfkd.methods", ""),
        ("ray.tune", "search_spaces"),
        ("ray", "cli"),
        ("typer", "orchestrator"),
        ("rich.table", "methods"),
        ("methods.nayer", "cli"),
        (".nayer", "methods"),
    ],
)
def test_an_import_up_the_layers_is_noticed(name, layer):
    assert import_problem(name, layer)


def test_tests_that_start_ray_lie_where_make_test_looks_for_them():
    mark = "pytest.mark." + "ray"
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if mark in path.read_text()]
    assert {path.parent for path in files} == {ROOT / "tests" / "orchestrator"}


def test_no_module_is_called_utils():
    everywhere = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    assert not [path for path in everywhere if path.stem in {"util", "utils"}]


@each_source
def test_every_public_module_says_what_it_is(path):
    is_private = path.stem.startswith("_") and path.stem != "__init__"
    assert is_private or ast.get_docstring(ast.parse(path.read_text()))


@each_source
def test_files_are_short(path):
    lines = len(path.read_text().splitlines())
    most = LONGER.get(path.relative_to(ROOT).as_posix(), MAX_FILE_LINES)
    assert lines <= most, f"{lines} lines"


def functions_in(path: Path) -> list[Function]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function)]


def is_command(function: Function) -> bool:
    """Whether it is a command of the command line, whose arguments are the options' table."""
    calls = [mark.func for mark in function.decorator_list if isinstance(mark, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr == "command" for call in calls)


def length(function: Function) -> int:
    """Lines from `def` (of a command: from its body) to the end, without the docstring."""
    body = function.body
    first = body[0].lineno if is_command(function) else function.lineno
    total = function.end_lineno - first + 1
    if ast.get_docstring(function) is None:
        return total
    return total - (body[0].end_lineno - body[0].lineno + 1)


@each_source
def test_functions_are_short(path):
    lengths = [(f.name, f.lineno, length(f)) for f in functions_in(path)]
    assert not [entry for entry in lengths if entry[-1] > MAX_FUNCTION_LINES]


def arguments(function: Function) -> list[str]:
    """Names of the arguments, without self and cls, and without `*args` and `**kwargs`."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


@each_source
def test_functions_take_few_arguments(path):
    plain = [function for function in functions_in(path) if not is_command(function)]
    counts = [(f.name, f.lineno, len(arguments(f))) for f in plain]
    assert not [entry for entry in counts if entry[-1] > MAX_ARGUMENTS]


@pytest.mark.parametrize("name", [module_name(path) for path in SOURCES])
def test_the_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
