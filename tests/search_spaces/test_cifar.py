"""CIFAR's batches are read as bytes; nothing that a pickle asks for is called."""

import os
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_tasks import tree

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.cifar import LAYOUTS, find_cifar, read_cifar
from dfkd.search_spaces.classes import Classes
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.task import parse_task

TEN = tuple("abcdefghij")
HUNDRED = tuple(f"class {number:02}" for number in range(100))
EACH = 4  # images of a batch


def pixels(seed, count=EACH):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def write(path, tree, protocol=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(tree, protocol))


def write_cifar10(root, names=TEN):
    """The folder that torchvision unpacks, with a few images of noise in each batch."""
    folder = root / "cifar-10-batches-py"
    batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for seed, name in enumerate(batches):
        labels = [(seed + place) % 10 for place in range(EACH)]
        write(folder / name, {"data": pixels(seed), "labels": labels, "batch_label": "x"})
    write(folder / "batches.meta", {"label_names": list(names), "num_vis": 3072})
    return folder


def write_cifar100(root):
    folder = root / "cifar-100-python"
    for seed, name in enumerate(("train", "test")):
        fine = [(10 * seed + place) % 100 for place in range(EACH)]
        coarse = [19] * EACH
        held = {"data": pixels(seed), "fine_labels": fine, "coarse_labels": coarse}
        write(folder / name, held)
    write(folder / "meta", {"fine_label_names": list(HUNDRED)})
    return folder


def task(classes=TEN, **changes):
    shape = {"channels": 3, "height": 32, "width": 32}
    normal = {"mean": [0.5] * 3, "std": [0.2] * 3}
    given = {"classes": list(classes), "image": shape, "normalize": normal, "data": None, **changes}
    declared = {key: value for key, value in tree(given).items() if value is not None}
    return parse_task(yaml.safe_dump(declared), "mine.yaml")


def refused(root, task=None):
    with pytest.raises(ConfigError) as refusal:
        load_data(task or globals()["task"](), "test", str(root))
    return " ".join(refusal.value.problems)


# What is read


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_the_batches_are_found_at_the_folder_or_below_it(tmp_path, below):
    folder = write_cifar10(tmp_path)
    assert find_cifar(tmp_path / below, 10) == (folder, LAYOUTS[10])


def test_of_both_sets_the_one_with_the_tasks_classes_is_read(tmp_path):
    ten, hundred = write_cifar10(tmp_path), write_cifar100(tmp_path)
    assert find_cifar(tmp_path, 10)[0] == ten
    assert find_cifar(tmp_path, 100)[0] == hundred


def test_a_folder_of_something_else_is_no_cifar(tmp_path):
    (tmp_path / "test").write_bytes(b"")  # as CIFAR-100 calls its images, without the rest
    assert find_cifar(tmp_path, 100) is None


def test_the_training_images_are_those_of_five_batches_in_order(tmp_path):
    write_cifar10(tmp_path)
    found = load_data(task(), "train", str(tmp_path))
    expected = np.concatenate([pixels(seed) for seed in range(5)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(found.images.numpy(), expected)
    assert found.labels[:EACH].tolist() == [0, 1, 2, 3]


def test_the_test_images_are_those_of_the_test_batch(tmp_path):
    write_cifar10(tmp_path)
    found = load_data(task(), "test", str(tmp_path))
    assert np.array_equal(found.images.numpy().reshape(EACH, -1), pixels(5))
    assert found.labels.tolist() == [5, 6, 7, 8]


def test_the_fine_labels_of_cifar_100_count(tmp_path):
    write_cifar100(tmp_path)
    assert load_data(task(HUNDRED), "test", str(tmp_path)).labels.tolist() == [10, 11, 12, 13]


def test_a_task_that_lists_the_classes_in_another_order_gets_its_own_labels(tmp_path):
    write_cifar10(tmp_path)
    found = load_data(task(TEN[::-1]), "test", str(tmp_path))
    assert [TEN[::-1][label] for label in found.labels] == ["f", "g", "h", "i"]


def test_a_task_with_names_of_its_own_keeps_the_order_of_the_labels(tmp_path):
    write_cifar10(tmp_path)
    named = [f"other {number}" for number in range(10)]
    assert load_data(task(named), "test", str(tmp_path)).labels.tolist() == [5, 6, 7, 8]


def test_images_are_scaled_to_a_task_of_another_size(tmp_path):
    write_cifar10(tmp_path)
    small = task(image={"channels": 3, "height": 16, "width": 16})
    assert load_data(small, "test", str(tmp_path)).images.shape == (EACH, 3, 16, 16)


def test_a_task_with_other_classes_is_refused(tmp_path):
    write_cifar100(tmp_path)
    assert "labels must be 0 to 9, got 10 to 13" in refused(tmp_path)


def python_2(data, labels):
    """The bytes that Python 2's cPickle wrote for {"data": array, "labels": list}, protocol 2."""
    text = struct.pack
    rows, columns = data.shape
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + (b"M" + text("<H", rows) + b"M" + text("<H", columns) + b"\x86")
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        + (b"K\x00tb\x89T" + text("<i", data.size) + data.tobytes() + b"tb")
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


def test_what_python_2_wrote_is_read(tmp_path):
    data, labels = pixels(9), [3, 1, 4, 1]
    folder = write_cifar10(tmp_path)
    (folder / "test_batch").write_bytes(python_2(data, labels))
    found = load_data(task(), "test", str(tmp_path))
    assert np.array_equal(found.images.numpy().reshape(EACH, -1), data)
    assert found.labels.tolist() == labels


def test_the_bytes_of_python_2_are_what_numpy_itself_reads():
    """So that the test above tests what it says."""
    read = pickle.loads(python_2(pixels(9), [3, 1]), encoding="bytes")
    assert np.array_equal(read[b"data"], pixels(9))
    assert read[b"labels"] == [3, 1]


# What is refused


class Runs:
    """Pickled, it is a call of `os.mkdir`."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return os.mkdir, (str(self.where),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("key", ["data", "labels", "other"])
def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path, protocol, key):
    folder = write_cifar10(tmp_path)
    held = {"data": pixels(5), "labels": [0] * EACH, key: Runs(tmp_path / "made")}
    write(folder / "test_batch", held, protocol)
    assert "test_batch is no file of CIFAR" in refused(tmp_path)
    assert not (tmp_path / "made").exists()


def test_the_names_of_the_classes_are_read_as_warily(tmp_path):
    folder = write_cifar10(tmp_path)
    write(folder / "batches.meta", {"label_names": Runs(tmp_path / "made")})
    assert "batches.meta is no file of CIFAR and was not run: it asks for" in refused(tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "asked",
    [
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zlibtR.",
        b"cbuiltins\neval\n.",
        b"Pid\n.",
        b"\x80\x02\x82\x01.",
    ],
    ids=["load", "scalar", "codec", "eval", "persistent", "extension"],
)
def test_nothing_beyond_what_the_files_need_is_admitted(tmp_path, asked):
    folder = write_cifar10(tmp_path)
    (folder / "test_batch").write_bytes(asked)
    assert "test_batch is no file of CIFAR" in refused(tmp_path)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ({"data": pixels(0)}, "holds no data and labels"),
        ({"labels": [0]}, "holds no data and labels"),
        ({"data": pixels(0), "labels": [0]}, "has data of (4, 3072) for 1 labels"),
        ({"data": pixels(0)[:, :7], "labels": [0] * EACH}, "rows of 3072 bytes were expected"),
        ({"data": pixels(0), "labels": [0.5] * EACH}, "labels that are no whole numbers"),
        ({"data": pixels(0).astype(np.int16), "labels": [0] * EACH}, "not of unsigned bytes"),
        ({"data": np.asfortranarray(pixels(0)), "labels": [0] * EACH}, "row by row"),
        ({"data": pixels(0).tobytes(), "labels": [0] * EACH}, "holds no data and labels"),
        ([1, 2], "holds no data and labels"),
    ],
)
def test_a_batch_of_something_else_is_told_of(tmp_path, held, told):
    folder = write_cifar10(tmp_path)
    write(folder / "test_batch", held)
    assert told in refused(tmp_path)


def test_a_training_batch_that_is_missing_is_named(tmp_path):
    (write_cifar10(tmp_path) / "data_batch_3").unlink()
    with pytest.raises(ConfigError, match="data_batch_3 cannot be read: No such file"):
        load_data(task(), "train", str(tmp_path))


@given(cut=st.integers(0, 3000), flip=st.integers(0, 255))
def test_a_damaged_batch_never_does_more_than_be_refused(tmp_path_factory, cut, flip):
    root = tmp_path_factory.mktemp("cifar")
    folder = write_cifar10(root)
    data = bytearray((folder / "test_batch").read_bytes())
    data[min(cut, len(data) - 1)] ^= flip
    (folder / "test_batch").write_bytes(bytes(data[: max(1, 14_000 - cut)]))
    try:
        images, labels = read_cifar(folder, LAYOUTS[10], "test", Classes(TEN))
    except ConfigError as error:
        assert "test_batch" in str(error)
    else:
        assert images.shape == (len(labels), 3, 32, 32)


def test_a_layout_says_where_each_set_lies():
    assert replace(LAYOUTS[10], folder="") != LAYOUTS[100]
    assert [len(layout.train) for layout in LAYOUTS.values()] == [5, 1]
