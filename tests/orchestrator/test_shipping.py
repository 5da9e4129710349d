from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray_sweeps import write_task

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator import shipping
from dfkd.orchestrator.shipping import pack, unreachable
from dfkd.search_spaces.task import load_task


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path)


@pytest.fixture
def unpacked(monkeypatch, tmp_path):
    """Unpack a parcel where /proc/self/cwd then is."""

    def unpack(parcel):
        folder = tmp_path / "there"
        folder.mkdir()
        parcel.unpack(folder)
        monkeypatch.chdir(folder)
        return folder

    return unpack


def complaint(*arguments):
    with pytest.raises(ConfigError) as refused:
        pack(arguments)
    return str(refused.value)


def test_a_shipped_task_with_words_only_travels_without_files():
    arguments = ("digits", "--trials", "4", "--method", "muse", "--set", "temperature=4")
    parcel = pack(arguments)
    assert (parcel.arguments, dict(parcel.files)) == (arguments, {})


def test_a_task_file_travels_with_what_it_names_beside_it(task, unpacked):
    parcel = pack((task,))
    folder = unpacked(parcel)
    there = load_task(parcel.arguments[0])
    assert there.text == load_task(task).text
    assert Path(there.data).read_bytes() == Path(task).with_name("tiny.npz").read_bytes()
    assert Path(there.data).resolve().is_relative_to(folder)


def test_what_lies_above_a_task_is_found_too(task, unpacked, tmp_path):
    text = Path(task).read_text().replace("tiny.npz", "../tiny.npz")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(text)
    parcel = pack((str(tmp_path / "tasks" / "mine.yaml"),))
    unpacked(parcel)
    assert Path(load_task(parcel.arguments[0]).data).is_file()


def test_the_definition_of_a_sweep_does_not_depend_on_where_its_files_were_unpacked(task, unpacked):
    """Else a sweep could not be resumed: each job has a working folder of its own."""
    parcel = pack((task,))
    unpacked(parcel)
    assert load_task(parcel.arguments[0]).data == "/proc/self/cwd/task/tiny.npz"


def test_an_absolute_path_in_a_task_is_the_clusters(task):
    path = Path(task)
    path.write_text(path.read_text().replace("tiny.npz", "/mnt/images.npz"))
    assert list(pack((task,)).files) == ["task/tiny.yaml"]


def test_what_a_task_names_must_be_there(task):
    Path(task).with_name("tiny.npz").unlink()
    assert "tiny.npz, which is not there" in complaint(task)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A teacher's weights and a folder of images, beside which the user stands."""
    (tmp_path / "big.safetensors").write_bytes(b"weights")
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "cat" / "1.png").write_bytes(b"pixels")
    (tmp_path / "images" / ".gitignore").write_text("*")
    monkeypatch.chdir(tmp_path)


def test_files_of_options_travel(files, unpacked):
    words = ("--teacher", "big.safetensors", "--seed", "3", "--data", "images")
    parcel = pack(("digits", *words))
    folder = unpacked(parcel)
    assert parcel.arguments == (
        *("digits", "--teacher", "/proc/self/cwd/teacher/big.safetensors"),
        *("--seed", "3", "--data", "/proc/self/cwd/data/images"),
    )
    assert (folder / "teacher" / "big.safetensors").read_bytes() == b"weights"
    assert (folder / "data" / "images" / "cat" / "1.png").read_bytes() == b"pixels"


def test_an_options_value_may_follow_an_equals_sign(files):
    parcel = pack(("digits", "--data=images"))
    assert parcel.arguments[1:] == ("--data", "/proc/self/cwd/data/images")


def test_a_teachers_network_stays_before_its_file(files):
    parcel = pack(("digits", "--teacher", "resnet34:big.safetensors"))
    assert parcel.arguments[-1] == "resnet34:/proc/self/cwd/teacher/big.safetensors"


@pytest.mark.parametrize(
    "words",
    [
        ("--teacher", "torchvision/resnet34:IMAGENET1K_V1"),
        ("--teacher", "plain"),
        ("--data", "mnist"),
        ("--data", "/mnt/not/here"),
        ("--from-pool", "images"),  # the name of a sweep, before that of a folder
        ("--from-pool", "s3://bucket/pool"),
        ("--export-dir", "s3://bucket/best"),
    ],
)
def test_what_is_no_file_here_stays_as_it_is(files, words):
    assert pack(("digits", *words)).arguments == ("digits", *words)


@pytest.mark.parametrize("option", ["--teacher", "--data", "--from-pool"])
def test_a_path_with_file_before_it_is_the_clusters(files, option, tmp_path):
    there = tmp_path / "big.safetensors"
    parcel = pack(("digits", option, f"file://{there}"))
    assert (parcel.arguments[-1], dict(parcel.files)) == (str(there), {})


def test_a_network_may_stand_before_a_file_of_the_clusters():
    parcel = pack(("digits", "--teacher", "resnet34:file:///mnt/t.pt"))
    assert parcel.arguments[-1] == "resnet34:/mnt/t.pt"


def test_data_that_is_nowhere_is_refused():
    assert "--data nowhere/images" in complaint("digits", "--data", "nowhere/images")


def test_an_export_to_this_machine_is_refused():
    assert "--export-dir mine" in complaint("digits", "--export-dir", "mine")


def test_too_much_is_refused_with_the_largest_file_and_advice(files, monkeypatch):
    monkeypatch.setattr(shipping, "LIMIT", 5)
    told = complaint("digits", "--teacher", "big.safetensors")
    assert "big.safetensors" in told
    assert "file://" in told


def test_a_link_to_nowhere_is_refused(files, tmp_path):
    (tmp_path / "images" / "cat" / "2.png").symlink_to(tmp_path / "nowhere.png")
    assert "2.png should travel" in complaint("digits", "--data", "images")


def test_a_file_that_goes_away_in_between_is_told(files, tmp_path):
    parcel = pack(("digits", "--teacher", "big.safetensors"))
    (tmp_path / "big.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        parcel.unpack(tmp_path / "there")


def test_all_problems_are_told_at_once(task):
    Path(task).with_name("tiny.npz").unlink()
    told = complaint(task, "--data", "nowhere/images", "--export-dir", "mine")
    assert all(word in told for word in ("tiny.npz", "nowhere/images", "--export-dir"))


@pytest.mark.parametrize("storage", ["s3://bucket/runs", "file:///mnt/runs", "/mnt/runs"])
def test_storage_that_a_cluster_can_reach_is_taken(storage):
    assert unreachable("--storage", storage) == []


@pytest.mark.parametrize("storage", ["dfkd-runs", "../runs", "~/runs"])
def test_storage_on_this_machine_is_refused(storage):
    (problem,) = unreachable("--storage", storage)
    assert f"--storage {storage}" in problem


@given(st.lists(st.text("ab-=:/ '", min_size=1, max_size=6), max_size=5))
def test_words_of_other_options_are_never_changed(values):
    words = [word for value in values for word in ("--set", value)]
    assert pack(("digits", *words)).arguments == ("digits", *words)
