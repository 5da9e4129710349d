import math
from dataclasses import asdict

import pytest
import torch
from small_tasks import STRIPES, files_end_at, write_task

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator import teaching
from dfkd.orchestrator.teaching import TeacherRequest, teach
from dfkd.search_spaces.data import LabeledImages, load_data
from dfkd.search_spaces.task import load_task
from dfkd.search_spaces.teachers import TeacherFailed, find_teacher, teacher_from_bytes

pytest_plugins = ["small_task_fixtures"]


@pytest.fixture
def lesson(stripes_file, tmp_path, monkeypatch):
    """Trains a teacher of the small task in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def run(**options):
        return teach(TeacherRequest(**{"task": stripes_file, **options}))

    return run


@pytest.fixture
def refused(lesson, monkeypatch):
    """The problems of a request that is refused before anything is trained."""

    def train(*args, **how):
        raise AssertionError("trained")

    def run(**options):
        monkeypatch.setattr(teaching, "train_teacher", train)
        with pytest.raises(ConfigError) as refusal:
            lesson(**options)
        return refusal.value.problems

    return run


def written(path):
    return teacher_from_bytes(path.read_bytes())


# What is trained


def test_the_file_is_the_teacher_that_the_task_would_train(lesson, stripes_teacher, tmp_path):
    found = lesson()
    file = written(tmp_path / "stripes-teacher.safetensors")
    assert found.fingerprint == file.fingerprint == stripes_teacher.fingerprint


def test_the_file_is_a_teacher_for_the_task(lesson, stripes_task):
    found = lesson(to="mine.safetensors", network="convnet-5-5")
    assert find_teacher(stripes_task, "mine.safetensors").network == "convnet-5-5"
    assert found.network == "convnet-5-5"


def test_settings_change_the_teacher(lesson):
    default = lesson(to="a.safetensors")
    changed = lesson(to="b.safetensors", settings={"epochs": "2", "flip": "true"})
    assert default.fingerprint != changed.fingerprint


def test_a_setting_and_an_option_mean_the_same(lesson):
    first = lesson(to="a.safetensors", seed=3, network="convnet-5-5")
    second = lesson(to="b.safetensors", settings={"seed": "3", "network": "convnet-5-5"})
    assert first.fingerprint == second.fingerprint


def test_a_variant_is_the_teacher_of_that_name(lesson, tmp_path, dfkd_cache):
    path = write_task(tmp_path, {"teachers.plain": {"shift": 0}})
    found = lesson(task=path, variant="plain")
    assert found.file == "stripes-plain-teacher.safetensors"
    assert found.fingerprint == find_teacher(load_task(path), "plain").fingerprint


def test_the_file_says_how_its_teacher_was_made(lesson, tmp_path):
    path = write_task(tmp_path, {"teachers.plain": {"shift": 0}})
    lesson(task=path, variant="plain", settings={"epochs": "2"}, seed=1)
    origin = written(tmp_path / "stripes-plain-teacher.safetensors").origin
    assert origin == "trained on stripes, plain, epochs=2, seed=1"


def test_a_file_may_be_overwritten_on_request(lesson, tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(b"old")
    assert written(tmp_path / lesson(to="mine.safetensors", force=True).file)


def test_folders_on_the_way_are_made(lesson, tmp_path):
    lesson(to="a/b/mine.safetensors")
    assert (tmp_path / "a" / "b" / "mine.safetensors").is_file()


# What is measured


def test_figures_are_of_the_test_images(lesson, monkeypatch):
    def splits(task, split, path=None):
        data = load_data(task, "test")
        part = slice(40) if split == "train" else slice(40, None)
        return LabeledImages(data.images[part], data.labels[part])

    monkeypatch.setattr(teaching, "load_data", splits)
    found = lesson()
    assert (found.training_images, found.test_images) == (40, 20)
    assert not found.tested_on_training_images
    right = found.accuracy
    assert round(20 * right, 6).is_integer()
    assert found.standard_error == pytest.approx(math.sqrt(right * (1 - right) / 20))


def test_it_is_said_when_there_are_no_other_images_to_measure_with(lesson):
    assert lesson().tested_on_training_images


def test_without_test_images_there_is_no_accuracy(lesson, monkeypatch):
    def train_only(task, split, path=None):
        return load_data(task, split) if split == "train" else None

    monkeypatch.setattr(teaching, "load_data", train_only)
    found = lesson()
    assert (found.accuracy, found.standard_error, found.test_images) == (None, None, 0)


def test_data_may_be_given(lesson, tmp_path):
    task = write_task(tmp_path / "with")
    bare = tmp_path / "bare.yaml"
    text = load_task(task).text.replace("data: stripes.npz\n", "")
    bare.write_text(text)
    found = lesson(task=str(bare), data=str(tmp_path / "with" / "stripes.npz"))
    assert found.training_images == 60


# What is refused, before any training


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "plain"}, "no stripes teacher 'plain'"),
        ({"settings": {"epoch": "3"}}, "Did you mean 'epochs'?"),
        ({"settings": {"epochs": "0"}}, "epochs must be at least 1, got '0'"),
        ({"settings": {"epochs": None}}, "epochs needs a value"),
        ({"network": "resnet"}, "no network 'resnet'"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"data": "none.npz"}, "none.npz"),
        ({"to": "teacher.pt"}, "must be a local file that ends in .safetensors, got 'teacher.pt'"),
        ({"to": "s3://bucket/a.safetensors"}, "must be a local file"),
    ],
    ids=str,
)
def test_a_mistake_is_found_before_the_training(refused, options, words):
    (problem,) = refused(**options)
    assert words in problem


def test_all_mistakes_are_told_at_once(refused):
    options = {"variant": "x", "settings": {"epochs": "0"}, "network": "y", "device": "z"}
    assert len(refused(**options, to="teacher.pt")) == 5


def test_weights_cannot_be_set_as_they_are_what_is_trained(refused):
    (problem,) = refused(settings={"weights": "IMAGENET1K_V1"})
    assert "--teacher" in problem


def test_a_file_that_is_there_is_refused(refused, tmp_path):
    (tmp_path / "stripes-teacher.safetensors").touch()
    assert "--force" in refused()[0]


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_in_the_files_place_is_refused(refused, tmp_path, force):
    (tmp_path / "mine.safetensors").mkdir()
    assert "is a folder" in refused(to="mine.safetensors", force=force)[0]


def test_a_place_that_cannot_be_written_is_refused(refused, tmp_path):
    (tmp_path / "file").touch()
    (problem,) = refused(to=str(tmp_path / "file" / "mine.safetensors"))
    assert "cannot be written" in problem
    assert "--to" in problem


def test_a_gpu_that_is_not_there_is_refused(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "use --device cpu" in refused(device="cuda")[0]


def test_a_task_without_data_asks_for_some(refused, tmp_path):
    path = tmp_path / "bare.yaml"
    path.write_text(load_task(write_task(tmp_path)).text.replace("data: stripes.npz\n", ""))
    assert "--data" in refused(task=str(path))[0]


# What ends it early


def test_an_interrupted_training_leaves_nothing(stripes_file, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    request = TeacherRequest(task=stripes_file, to=str(tmp_path / "mine.safetensors"))
    with pytest.raises(KeyboardInterrupt, match="nothing was written"):
        teach(request, interrupt)
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_leaves_nothing(lesson, tmp_path):
    with pytest.raises(TeacherFailed, match="learning_rate below"):
        lesson(settings={"learning_rate": "1e30"})
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_in_the_end_is_told(lesson, tmp_path):
    with files_end_at(100), pytest.raises(TeacherFailed, match="cannot be written"):
        lesson()
    assert not list(tmp_path.iterdir())


def test_the_result_is_json(lesson):
    import json

    found = asdict(lesson())
    assert json.loads(json.dumps(found)) == found
    assert found["task"].endswith(f"{STRIPES['task']}.yaml")
