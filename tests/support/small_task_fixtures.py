"""The small task, its teacher and a finished run of it.

A pytest plugin: `pytest_plugins = ["small_task_fixtures"]` in a test file.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from small_tasks import write_task

from dfkd.orchestrator.scores import SCORES
from dfkd.orchestrator.sweeps import SweepResult, distill
from dfkd.orchestrator.trials import Surroundings
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.task import Task, load_task
from dfkd.search_spaces.teachers import TeacherWeights, find_teacher


@pytest.fixture(scope="session")
def stripes_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of the small task's YAML file."""
    return write_task(tmp_path_factory.mktemp("stripes"))


@pytest.fixture(scope="session")
def stripes_task(stripes_file: str) -> Task:
    return load_task(stripes_file)


@pytest.fixture(scope="session")
def stripes_teacher(stripes_task: Task, dfkd_cache: Path) -> TeacherWeights:
    return find_teacher(stripes_task)


@pytest.fixture(scope="session")
def stripes_surroundings(stripes_task: Task, stripes_teacher: TeacherWeights) -> Surroundings:
    """What the small task's trials have in common; to be left as it is."""
    return Surroundings(
        task=stripes_task,
        teacher=stripes_teacher,
        score=SCORES["accuracy"],
        evaluation=load_data(stripes_task, "test"),
    )


@pytest.fixture(scope="session")
def stripes_storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A storage folder with one finished run, `done`; to be left as it is."""
    return str(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def done(stripes_file: str, stripes_storage: str, dfkd_cache: Path) -> SweepResult:
    """The finished run in `stripes_storage`."""
    return distill(stripes_file, name="done", storage=stripes_storage)


@pytest.fixture(scope="session")
def shipped_digits_teacher(dfkd_cache: Path) -> TeacherWeights:
    """The teacher that `dfkd sweep digits` trains, trained once for all tests."""
    return find_teacher(load_task("digits"))
