import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_tasks import stripes, write_task

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.evaluation import evaluate
from dfkd.orchestrator.programs import load_program, program
from dfkd.orchestrator.storage import Folder
from dfkd.search_spaces.data import load_data

pytest_plugins = ["small_task_fixtures"]


@pytest.fixture(scope="module")
def found(done, stripes_storage):
    """What is found of the finished run's student."""
    return evaluate("done", stripes_storage)


@pytest.fixture
def copy(done, tmp_path):
    """A copy of the finished run, to be changed."""
    shutil.copytree(done.run.folder.local, tmp_path / "storage" / "copy")
    return tmp_path / "storage" / "copy"


def test_the_accuracy_is_the_one_its_trial_reported(found, done):
    assert found.accuracy == pytest.approx(done.best.best["accuracy"])


def test_the_teachers_accuracy_is_the_one_its_sweep_reported(found, done):
    assert found.teacher_accuracy == pytest.approx(done.teacher_accuracy)


def test_the_error_is_that_of_a_share_of_so_many_images(found):
    share = found.accuracy
    assert found.images == 60
    assert found.standard_error == pytest.approx(math.sqrt(share * (1 - share) / 60))


def test_the_divergence_is_that_of_the_student_from_the_teacher(
    found, done, stripes_task, stripes_teacher
):
    """KL(teacher || student): the mean over images of the sum of p log(p / q)."""
    images = load_data(stripes_task, "test").images.float() / 255
    with torch.no_grad():
        p = stripes_teacher.build(stripes_task).logits(images).softmax(1)
        q = load_program(str(done.exported.local / "student.pt2"))(images).softmax(1)
    expected = (p * (p / q).log()).sum(1).mean()
    assert found.divergence == pytest.approx(float(expected), rel=1e-3)


def test_the_teacher_itself_agrees_with_the_teacher(copy, stripes_task, stripes_teacher):
    teacher = stripes_teacher.build(stripes_task).network
    (copy / "best" / "student.pt2").write_bytes(program(teacher, stripes_task))
    (copy / "best" / "metrics.json").unlink()  # which lists another
    same = evaluate("copy", str(copy.parent))
    assert (same.agreement, same.accuracy) == (1.0, same.teacher_accuracy)
    assert same.divergence == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("place", ["best", "best/student.pt2"])
def test_a_student_is_found_by_path_as_well(done, found, place, monkeypatch):
    monkeypatch.chdir(done.run.folder.local)
    assert evaluate(place, "nowhere") == found


@pytest.fixture
def alone(done, tmp_path):
    """A student's file far from its run."""
    shutil.copy(done.exported.local / "student.pt2", tmp_path / "mine.pt2")
    return str(tmp_path / "mine.pt2")


def test_a_student_without_a_run_needs_a_task(alone):
    with pytest.raises(ConfigError, match="name it with --task"):
        evaluate(alone, "nowhere")


def test_a_student_without_a_run_has_an_accuracy(alone, found, stripes_file):
    assert evaluate(alone, "nowhere", stripes_file).accuracy == found.accuracy


def test_a_student_without_a_run_is_compared_with_no_teacher(alone, stripes_file):
    measured = evaluate(alone, "nowhere", stripes_file)
    assert (measured.teacher_accuracy, measured.agreement, measured.divergence) == (None,) * 3


def test_a_student_can_be_measured_on_other_images(done, stripes_storage, tmp_path):
    images, labels = stripes(30)
    np.savez(tmp_path / "other.npz", images=images[labels == 1], labels=labels[labels == 1])
    assert evaluate("done", stripes_storage, data=str(tmp_path / "other.npz")).images == 10


def test_how_students_agree_does_not_depend_on_labels(done, stripes_storage, found, tmp_path):
    images, labels = stripes()
    np.savez(tmp_path / "other.npz", images=images, labels=np.roll(labels, 1))
    other = evaluate("done", stripes_storage, data=str(tmp_path / "other.npz"))
    assert (other.agreement, other.divergence) == (found.agreement, found.divergence)


def test_a_student_that_is_nowhere_is_refused_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(ConfigError, match="no student 'mine'") as refusal:
        evaluate("mine", str(tmp_path))
    assert str(tmp_path) in str(refusal.value)


def test_a_run_that_is_not_finished_has_no_student(copy):
    shutil.rmtree(copy / "best")
    with pytest.raises(ConfigError, match="no student 'copy'"):
        evaluate("copy", str(copy.parent))


def test_a_task_without_labels_asks_for_some(alone, tmp_path):
    path = write_task(tmp_path / "task")
    text = Path(path).read_text().replace("data: stripes.npz\n", "")
    Path(path).write_text(text)
    with pytest.raises(ConfigError, match="give --data PATH"):
        evaluate(alone, "nowhere", path)


def test_without_its_teacher_a_run_has_an_accuracy_alone(copy, found):
    (copy / "teacher.safetensors").unlink()
    measured = evaluate("copy", str(copy.parent))
    assert (measured.accuracy, measured.agreement) == (found.accuracy, None)


@pytest.mark.parametrize("kind", ["of a run", "alone"])
def test_a_task_that_the_student_was_not_made_for_is_refused(
    alone, done, stripes_storage, tmp_path, kind
):
    images, labels = stripes()
    task = write_task(tmp_path, {"image.width": 8, "classes": ["a", "b", "c", "d"]})
    np.savez(
        tmp_path / "stripes.npz", images=np.pad(images, ((0, 0), (0, 0), (1, 1))), labels=labels
    )
    with pytest.raises(ConfigError, match="stripes"):
        evaluate(alone if kind == "alone" else "done", stripes_storage, task)


def test_a_run_is_measured_on_the_images_it_was_given(copy, tmp_path):
    """As a sweep of a task without labels, whose user gave some with --data, leaves it."""
    run = Folder.of(str(copy))
    facts = run.read_json("sweep.json")
    images, labels = stripes(30)
    np.savez(tmp_path / "given.npz", images=images, labels=labels)
    facts["definition"]["data"] = str(tmp_path / "given.npz")
    run.write_json("sweep.json", facts)
    assert evaluate("copy", str(copy.parent)).images == 30


def test_the_fidelity_is_the_one_that_chose_the_student(found, done):
    (verdict,) = done.verdicts.values()
    assert found.fidelity == pytest.approx(verdict.fidelity, rel=1e-3)
    assert found.jury_agreement == pytest.approx(verdict.agreement, abs=0.01)
    assert found.pools == len(verdict.divergences)


def test_without_labeled_images_fidelity_is_all_there_is(copy, found):
    facts = json.loads((copy / "sweep.json").read_text())
    facts["definition"]["task_data"] = None
    (copy / "sweep.json").write_text(json.dumps(facts))
    measured = evaluate("copy", str(copy.parent))
    assert (measured.images, measured.accuracy, measured.agreement) == (0, None, None)
    assert measured.fidelity == found.fidelity


def test_far_from_its_run_a_student_has_no_jury(alone, stripes_file):
    assert evaluate(alone, "nowhere", stripes_file).fidelity is None
