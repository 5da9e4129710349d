import json
import math
import struct
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.fs
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kept_pools import ABOUT, CLASSES, keep_pool, shard

from dfkd.methods.errors import ConfigError
from dfkd.methods.memory import Shard
from dfkd.methods.shape import ImageShape
from dfkd.orchestrator import pool_files
from dfkd.orchestrator.pool_files import keep, read, survey
from dfkd.orchestrator.storage import Folder

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path):
    return Folder.of(str(tmp_path / "pools"))


@st.composite
def shards(draw):
    """Any shard: of few images, any number of channels and layout, labels of any integer type."""
    count, *size = (draw(st.integers(1, most)) for most in (5, 4, 7, 9))
    one = shard(draw(st.integers(0, 99)), count, tuple(size))
    kind = draw(st.sampled_from([torch.int64, torch.int32, torch.uint8]))
    layout = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    return Shard(one.images.contiguous(memory_format=layout), one.labels.to(kind))


def equal(ours, theirs):
    """Whether two shards hold the same images and labels, of the types that a pool takes."""
    same = torch.equal(ours.images, theirs.images)
    return same and torch.equal(ours.labels.to(torch.int64), theirs.labels)


# Round trips


@same_folder
@given(st.lists(shards(), min_size=1, max_size=4))
def test_any_shards_come_back_as_they_were(folder, given):
    losses = [number / 4 for number in range(len(given))]
    found = [read(folder, name) for name in keep(folder, given, losses, ABOUT)]
    assert all(kept.about == ABOUT for kept in found)
    back = [pair for kept in found for pair in zip(kept.losses, kept.shards, strict=True)]
    assert sorted(loss for loss, _ in back) == losses
    assert all(equal(given[int(4 * loss)], one) for loss, one in back)


def test_there_is_one_file_for_each_size_of_images(folder):
    sizes = [(1, 6, 6), (3, 6, 6), (1, 6, 6)]
    names = keep(folder, [shard(i, size=size) for i, size in enumerate(sizes)], [0, 1, 2], ABOUT)
    assert [read(folder, name).losses for name in names] == [[0, 2], [1]]


def test_a_shard_without_images_is_left_out(folder):
    assert keep(folder, [shard(count=0)], [0.0], ABOUT) == folder.files() == []


def test_a_round_without_a_loss_may_be_kept(folder):
    (name,) = keep(folder, [shard()], [math.nan], ABOUT)
    assert math.isnan(read(folder, name).losses[0])


def test_the_same_images_kept_twice_are_one_file_with_the_first_provenance(folder):
    first = keep(folder, [shard()], [0.5], ABOUT)
    again = keep(folder, [shard()], [0.7], replace(ABOUT, trial="t001"))
    assert first == again == folder.files()
    assert read(folder, first[0]).about.trial == ABOUT.trial


@pytest.mark.parametrize(
    "other",
    [
        Shard(shard().images + 1, shard().labels),
        Shard(shard().images, shard().labels.flip(0)),
        Shard(shard().images.view(-1, 1, 4, 9), shard().labels),
    ],
    ids=["images", "labels", "size"],
)
def test_other_contents_are_another_file(folder, other):
    assert keep(folder, [shard()], [0.0], ABOUT) != keep(folder, [other], [0.0], ABOUT)


def test_the_same_shards_give_the_same_bytes(folder, tmp_path):
    other = Folder.of(str(tmp_path / "other"))
    (name,) = keep_pool(folder)
    assert keep_pool(other) == [name]
    assert folder.read(name) == other.read(name)


@pytest.mark.parametrize(
    "wrong",
    [
        Shard(shard().images.float(), shard().labels),
        Shard(shard().images[0], shard().labels),
        Shard(shard().images, shard().labels[1:]),
        Shard(shard().images, shard().labels + 1),
        Shard(shard().images, shard().labels - 1),
    ],
    ids=["floats", "one image", "too few labels", "a label too high", "a label below 0"],
)
def test_what_is_no_shard_is_refused(folder, wrong):
    with pytest.raises(ValueError, match="label"):
        keep(folder, [wrong], [0.0], ABOUT)
    assert folder.files() == []


# Without a copy


def mappings():
    """Ranges of addresses at which .arrow files are mapped, and whether these can be written."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            if line.rstrip().endswith(".arrow"):
                addresses, rights, *_ = line.split()
                first, last = (int(address, 16) for address in addresses.split("-"))
                yield first, last, rights


def test_a_local_file_is_read_where_it_lies(folder):
    kept = read(folder, *keep_pool(folder))
    where = list(mappings())
    for tensor in (kept.shards[0].images, kept.shards[0].labels):
        end = tensor.data_ptr() + tensor.nbytes
        (rights,) = [how for first, last, how in where if first <= tensor.data_ptr() < end <= last]
        assert "w" not in rights


def test_what_was_read_outlives_its_file(folder):
    kept = read(folder, *keep_pool(folder))
    folder.remove()
    assert equal(shard(), kept.shards[0])


class Remote(MemoryFileSystem):
    """Storage in memory that counts the bytes that are asked of it."""

    store: dict = {}  # noqa: RUF012 (fsspec keeps it on the class)
    pseudo_dirs: list = [""]  # noqa: RUF012
    fetched = 0

    def _open(self, *arguments, **options):
        file = super()._open(*arguments, **options)
        read = file.read

        def counted(*size):
            data = read(*size)
            Remote.fetched += len(data)
            return data

        file.read = counted
        return file


@pytest.fixture
def remote(monkeypatch):
    """A folder on storage that is no local disk."""

    class Filesystems:
        @staticmethod
        def from_uri(uri):
            handler = pyarrow.fs.FSSpecHandler(Remote())
            return pyarrow.fs.PyFileSystem(handler), "/" + uri.partition("://")[2]

    monkeypatch.setattr(Remote, "store", {})
    monkeypatch.setattr(Remote, "pseudo_dirs", [""])
    monkeypatch.setattr(Remote, "fetched", 0)
    monkeypatch.setattr(pyarrow.fs, "FileSystem", Filesystems)
    return Folder.of("remote://bucket/pools")


def test_a_pool_may_lie_on_remote_storage(remote):
    kept = read(remote, *keep_pool(remote))
    assert equal(shard(), kept.shards[0])
    assert kept.about == ABOUT


# Surveys


def test_a_survey_reads_no_images(remote):
    large = shard(count=90, size=(3, 40, 40))
    keep_pool(remote, large)
    Remote.fetched = 0
    (found,) = survey(remote)
    assert found.images == 90
    assert 0 < Remote.fetched < large.images.nbytes / 10


def test_a_survey_tells_what_there_is(folder):
    (name,) = keep(folder, [shard(), shard(1, 4)], [0.0, 0.0], ABOUT)
    (found,) = survey(folder)
    assert (found.name, found.about, found.shape) == (name, ABOUT, ImageShape(1, 6, 6))
    assert found.per_class == (3 + 2, 3 + 1, 3 + 1)
    assert found.bytes == len(folder.read(name))


def test_a_survey_is_in_the_order_of_trials_and_epochs(folder):
    told = [("t001", 1), ("t000", 10), ("t000", 9), ("t001", 0)]
    for number, (trial, epoch) in enumerate(told):
        keep_pool(folder, shard(number), trial=trial, epoch=epoch)
    assert [(f.about.trial, f.about.epoch) for f in survey(folder)] == sorted(told)


def test_a_damaged_file_does_not_hide_the_others(folder):
    (name,) = keep_pool(folder)
    folder.write("bad.arrow", folder.read(name)[:-9])
    folder.write("notes.txt", b"not a pool's")
    good, bad = survey(folder)
    assert (good.name, good.problem) == (name, "")
    assert (bad.name, bad.about, bad.images) == ("bad.arrow", None, 0)
    assert "bad.arrow is damaged" in bad.problem


def test_an_empty_folder_holds_no_files(folder):
    assert survey(folder) == []


# Files that are none


@same_folder
@given(st.data())
def test_a_byte_that_changed_changes_neither_images_nor_labels_unnoticed(folder, data):
    (name,) = keep_pool(folder)
    written = bytearray(folder.read(name))
    written[data.draw(st.integers(0, len(written) - 1))] ^= data.draw(st.integers(1, 255))
    folder.write("changed.arrow", bytes(written))
    assert {file.name for file in survey(folder)} == {name, "changed.arrow"}
    try:
        found = read(folder, "changed.arrow")
    except ConfigError as error:
        assert "changed.arrow is damaged" in str(error)
    else:
        assert equal(shard(), found.shards[0])


@same_folder
@given(st.data())
def test_a_file_that_was_cut_off_is_refused(folder, data):
    (name,) = keep_pool(folder)
    written = folder.read(name)
    folder.write("cut.arrow", written[: data.draw(st.integers(0, len(written) - 1))])
    with pytest.raises(ConfigError, match=r"cut\.arrow is damaged.*delete it"):
        read(folder, "cut.arrow")


def test_a_column_shorter_than_its_batch_is_noticed_before_its_labels_are_read(folder):
    (name,) = keep_pool(folder)
    written, length = folder.read(name), struct.pack("<q", 9 * 8)  # of nine labels
    assert written.count(length) == 1
    folder.write(name, written.replace(length, struct.pack("<q", 8 * 8)))
    assert "too small" in survey(folder)[0].problem


def test_a_file_that_is_missing_is_named(folder):
    with pytest.raises(ConfigError, match=r"none\.arrow does not exist; `dfkd pool ls`"):
        read(folder, "none.arrow")


def test_images_that_changed_pass_only_unverified(folder):
    (name,) = keep_pool(folder)
    folder.write(name, folder.read(name).replace(shard().images[4].numpy().tobytes(), bytes(36)))
    assert not equal(shard(), read(folder, name, verify=False).shards[0])
    with pytest.raises(ConfigError, match="not those that were written"):
        read(folder, name)


def rewritten(folder, metadata=None, columns=None):
    """The name of a copy of a pool's file with other metadata or columns."""
    (name,) = keep_pool(folder)
    table = pa.ipc.open_file(folder.open(name)).read_all()
    for column, values in (columns or {}).items():
        place = table.schema.get_field_index(column)
        table = table.set_column(place, column, values)
    before = {key.decode(): value for key, value in table.schema.metadata.items()}
    table = table.replace_schema_metadata({**before, **(metadata or {})})
    stream = pa.BufferOutputStream()
    with pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    folder.write("other.arrow", stream.getvalue().to_pybytes())
    return "other.arrow"


def test_an_arrow_file_of_somebody_else_is_refused(folder):
    stream = pa.BufferOutputStream()
    with pa.ipc.new_file(stream, pa.schema({"image": pa.binary()})):
        pass
    folder.write("theirs.arrow", stream.getvalue().to_pybytes())
    with pytest.raises(ConfigError, match=r"theirs\.arrow .* dfkd did not write it"):
        read(folder, "theirs.arrow")


@pytest.mark.parametrize(
    ("metadata", "columns", "words"),
    [
        ({"dfkd_format": "2"}, {}, "it has format 2, this dfkd reads 1"),
        ({"dfkd_provenance": "{}"}, {}, "'task' is missing"),
        ({"dfkd_provenance": json.dumps(asdict(ABOUT) | {"epoch": None})}, {}, "epoch cannot be"),
        ({"dfkd_provenance": "{"}, {}, "other.arrow is damaged"),
        ({}, {"label": pa.array([9] * 9)}, "not below 3, the number of its classes"),
        ({}, {"label": pa.array([-1] * 9)}, "not below 3"),
        ({}, {"label": pa.array([None] * 9, pa.int64())}, "values are missing"),
        ({}, {"label": pa.array([0] * 9, pa.int32())}, "its columns are not those of a pool"),
        ({}, {"image": pa.array([b""] * 9)}, "its columns are not those of a pool"),
    ],
)
def test_a_file_with_something_else_in_it_is_refused(folder, metadata, columns, words):
    name = rewritten(folder, metadata, columns)
    with pytest.raises(ConfigError, match=words):
        read(folder, name)


def test_keys_that_a_later_version_adds_are_ignored(folder):
    (name,) = keep_pool(folder)
    tree = json.loads(pa.ipc.open_file(folder.open(name)).schema.metadata[b"dfkd_provenance"])
    later = rewritten(folder, {"dfkd_provenance": json.dumps({**tree, "mood": "good"})})
    assert read(folder, later).about == ABOUT


def test_the_format_has_a_number(folder):
    (name,) = keep_pool(folder)
    metadata = pa.ipc.open_file(folder.open(name)).schema.metadata
    assert metadata[b"dfkd_format"] == pool_files.FORMAT.encode()
    assert name == metadata[b"dfkd_digest"].decode() + ".arrow"
    assert tuple(json.loads(metadata[b"dfkd_provenance"])["classes"]) == CLASSES
