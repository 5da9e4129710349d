"""docs/own-task.yaml, which users copy for their own data, works as it stands."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfkd.methods import METHODS, load_method
from dfkd.methods.embeddings import load_label_embeddings
from dfkd.methods.networks import build_network, parameters
from dfkd.methods.settings import problems
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.task import load_task

OWN = Path(__file__).resolve().parents[2] / "docs" / "own-task.yaml"
CLASSES = ("cat", "dog", "rabbit")


@pytest.fixture
def copied(tmp_path):
    """The path of a copy, as a user makes it."""
    return str(shutil.copy(OWN, tmp_path / "pets.yaml"))


def write_photos(root, each):
    """Colored photos of many sizes, `each` of every class."""
    for number in range(each):
        for level, name in enumerate(CLASSES):
            (root / name).mkdir(parents=True, exist_ok=True)
            photo = Image.new("RGB", (40 + 9 * number, 30), (80 * level, 128, 0))
            photo.save(root / name / f"{number}.jpg")


def test_images_in_a_folder_per_class_lie_beside_the_copy(copied, tmp_path):
    write_photos(tmp_path / "pets" / "train", 4)
    write_photos(tmp_path / "pets" / "test", 2)
    task = load_task(copied)
    train, test = load_data(task, "train"), load_data(task, "test")
    assert train.images.shape == (12, 3, 32, 32)
    assert test.labels.bincount().tolist() == [2, 2, 2]


def test_an_npz_file_may_take_the_folders_place(copied, tmp_path):
    images = np.zeros((6, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "pets.npz", images=images, labels=np.arange(6) % 3)
    text = Path(copied).read_text()
    Path(copied).write_text(text.replace("data: pets", "data: pets.npz"))
    assert load_data(load_task(copied), "test").images.shape == (6, 3, 32, 32)


def test_data_may_be_given_instead(copied, tmp_path):
    write_photos(tmp_path / "elsewhere", 3)
    assert len(load_data(load_task(copied), "test", str(tmp_path / "elsewhere"))) == 9


def test_the_student_is_smaller_than_the_teacher():
    task = load_task(str(OWN))
    teacher, student = (
        parameters(build_network(name, 3, 3)) for name in (task.teacher.network, task.student)
    )
    assert student < teacher


def test_every_class_has_an_embedding():
    task = load_task(str(OWN))
    assert load_label_embeddings(task.embeddings, task.classes).classes == CLASSES


@pytest.mark.parametrize("method", METHODS)
def test_the_recipe_holds_settings_that_each_method_allows(method):
    space = load_task(str(OWN)).space(method)
    assert not problems(load_method(method).settings_class, space.recipe, "own-task")
