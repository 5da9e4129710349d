"""What a request makes of a task whose images are not installed."""

import gzip

import numpy as np
import pytest

from dfkd.methods import CONTROL, METHODS
from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.requests import SweepRequest, plan_sweep
from dfkd.search_spaces import data as sources

COUNTS = {"train": 30, "t10k": 20}


@pytest.fixture
def idx_folder(tmp_path):
    """Fashion-MNIST in little: random pictures as the published files hold them."""
    draws = np.random.default_rng(0)
    for name, count in COUNTS.items():
        pixels = draws.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        write(tmp_path / f"{name}-images-idx3-ubyte.gz", pixels)
        write(tmp_path / f"{name}-labels-idx1-ubyte.gz", labels)
    return tmp_path


def write(path, array):
    header = np.array([0x800 + array.ndim, *array.shape], dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "DEBIAN", tmp_path / "not there")
    monkeypatch.delenv("DFKD_DATA", raising=False)


@pytest.mark.usefixtures("nothing_installed")
def test_a_folder_with_both_splits_stands_in_for_images_that_are_not_installed(idx_folder):
    spec = plan_sweep(SweepRequest(task="fashion_mnist", data=str(idx_folder)))
    assert spec.task.data == str(idx_folder)


@pytest.mark.usefixtures("nothing_installed")
def test_images_of_one_kind_are_not_taken_to_train_a_teacher_that_they_judge(tmp_path):
    pixels = np.zeros((20, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=pixels, labels=np.arange(20) % 10)
    with pytest.raises(ConfigError, match="dataset-fashion-mnist"):
        plan_sweep(SweepRequest(task="fashion_mnist", data=str(tmp_path / "mine.npz")))


def test_a_task_with_images_of_its_own_keeps_them(tmp_path):
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(20) % 10)
    spec = plan_sweep(SweepRequest(task="digits", data=str(tmp_path / "mine.npz")))
    assert spec.task.data == "digits"


def test_all_means_every_method_but_the_control():
    spec = plan_sweep(SweepRequest(task="digits", methods=("nayer", "all")))
    assert list(spec.methods) == ["nayer", *(m for m in METHODS if m not in ("nayer", CONTROL))]


def test_a_student_that_a_method_cannot_teach_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match=r"zskt: attention transfer needs feature maps"):
        plan_sweep(SweepRequest(task="digits", methods=("zskt",), student="convnet-8-16-24-48"))
