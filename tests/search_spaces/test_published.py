"""Published results as a task lists them."""

import io
import re

import pytest
import yaml
from rich.console import Console
from small_tasks import tree

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.rendering import published
from dfkd.search_spaces.published import Published
from dfkd.search_spaces.task import load_task, parse_task, shipped_tasks

ROW = {"source": "a paper", "teacher": "resnet34", "student": "resnet18", "accuracy": {"dafl": 92}}


def parse(*rows):
    return parse_task(yaml.safe_dump(tree({"published": list(rows)})), "mine.yaml").published


def test_a_row_is_read_as_it_stands():
    assert parse(ROW) == (Published("a paper", "resnet34", "resnet18", {"dafl": 92.0}),)


def test_a_task_needs_none():
    assert parse() == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sorce": "x"}, "published, entry 2: no key 'sorce'. Did you mean 'source'"),
        ({"accuracy": {}}, "needs an accuracy for each method"),
        ({"accuracy": 92}, "needs an accuracy for each method, got 92"),
        ({"accuracy": {"dafl": 920}}, "in percent, got 920 for dafl"),
        ({"accuracy": {"dafl": "high"}}, "in percent, got 'high' for dafl"),
        ({"teacher": ""}, "needs text for source, teacher and student"),
        ({"student": 18}, "needs text for source, teacher and student"),
    ],
)
def test_a_row_that_says_nothing_is_refused_with_its_place(changes, told):
    with pytest.raises(ConfigError, match="published, entry 2:") as refusal:
        parse(ROW, {**ROW, **changes})
    assert told in str(refusal.value)


def test_a_row_that_lacks_something_is_refused():
    row = {key: value for key, value in ROW.items() if key != "source"}
    with pytest.raises(ConfigError, match="entry 1: lacks source"):
        parse(row)


@pytest.mark.parametrize("row", ["dafl: 92", 92, None])
def test_what_is_no_row_is_refused(row):
    with pytest.raises(ConfigError, match="must be a mapping of keys"):
        parse(row)


def told(task, teacher, student):
    console = Console(file=io.StringIO(), width=250)
    for part in published(task, teacher, student):
        console.print(part)
    return console.file.getvalue()


def test_a_plan_shows_what_is_published_for_its_pair_and_by_whom():
    shown = told(load_task("cifar100"), "wrn-40-2", "wrn-16-2")
    assert re.search(r"fast_10 .* 65\.12 %", shown)
    assert re.search(r"nayer_300 .* 71\.70 %", shown)
    assert "not measured by dfkd" in shown
    assert "77.04" not in shown  # of another pair


def test_a_plan_of_a_pair_that_nobody_published_shows_nothing():
    assert told(load_task("cifar100"), "vgg11", "wrn-16-2") == ""


@pytest.mark.parametrize("name", sorted(shipped_tasks()))
def test_the_networks_of_shipped_rows_are_the_tasks_own(name):
    task = load_task(name)
    teachers = {spec.network for spec in (task.teacher, *task.teachers.values())}
    for row in task.published:
        assert row.teacher in teachers
        assert row.student in {task.student, *task.students}
