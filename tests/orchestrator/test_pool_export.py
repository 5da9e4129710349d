import io
import json
import math
import tarfile

import numpy as np
import pytest
import torch
from kept_pools import ABOUT, CLASSES, keep_pool, shard
from PIL import Image
from small_tasks import contents, files_end_at
from torchvision.datasets import ImageFolder

from dfkd.methods.errors import ConfigError, DfkdError
from dfkd.methods.shape import ImageShape
from dfkd.orchestrator import pool_export, pools
from dfkd.orchestrator.pool_export import export_pool
from dfkd.orchestrator.pool_files import keep, read
from dfkd.orchestrator.storage import Folder
from dfkd.search_spaces.classes import Classes
from dfkd.search_spaces.image_folders import read_image_folder

SHARDS = (shard(), shard(1, 4))
IMAGES = torch.cat([one.images for one in SHARDS])
LABELS = torch.cat([one.labels for one in SHARDS])


@pytest.fixture
def folder(tmp_path):
    """A pool of two files."""
    folder = Folder.of(str(tmp_path / "pools"))
    keep_pool(folder, *SHARDS)
    return folder


def export(folder, to, format="imagefolder"):
    return export_pool(folder, str(to), format, lambda done, total: None)


def test_image_folders_hold_every_image_with_its_label(folder, tmp_path):
    assert export(folder, tmp_path / "to").images == len(LABELS)
    found = ImageFolder(str(tmp_path / "to"), loader=lambda path: np.asarray(Image.open(path)))
    of_class = {name.replace("/", "_"): label for label, name in enumerate(CLASSES)}
    assert set(found.classes) == set(of_class)
    for (path, _), (pixels, index) in zip(found.samples, found, strict=True):
        number = int(path[-10:-4])
        assert of_class[found.classes[index]] == LABELS[number]
        assert (pixels == IMAGES[number, 0].numpy()).all()


def test_the_reader_of_labeled_images_finds_the_same_classes(folder, tmp_path):
    export(folder, tmp_path / "to")
    found, labels = read_image_folder(
        tmp_path / "to", "test", Classes(CLASSES), ImageShape(1, 6, 6)
    )
    told = sorted(zip(found.tolist(), labels.tolist(), strict=True))
    assert told == sorted(zip(IMAGES.tolist(), LABELS.tolist(), strict=True))


def test_color_stays_as_it_is(tmp_path):
    colored = shard(size=(3, 5, 7))
    keep_pool(Folder.of(str(tmp_path / "pools")), colored)
    export(Folder.of(str(tmp_path / "pools")), tmp_path / "to")
    with Image.open(tmp_path / "to" / "top" / "000000.png") as image:
        pixels = np.asarray(image)
    assert (pixels.transpose(2, 0, 1) == colored.images[0].numpy()).all()


def members(tar):
    """What a tar file holds, by name, in its order."""
    with tarfile.open(tar) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_a_webdataset_holds_image_label_and_provenance(folder, tmp_path):
    export(folder, tmp_path / "to", "webdataset")
    found = members(tmp_path / "to" / "000000.tar")
    kinds = ("png", "cls", "json")
    assert list(found) == [f"{n:06}.{kind}" for n in range(len(LABELS)) for kind in kinds]
    for number, label in enumerate(LABELS.tolist()):
        pixels = np.asarray(Image.open(io.BytesIO(found[f"{number:06}.png"])))
        assert (pixels == IMAGES[number, 0].numpy()).all()
        assert found[f"{number:06}.cls"] == str(label).encode()
        facts = json.loads(found[f"{number:06}.json"])
        assert facts["class"] == CLASSES[label]
        assert (facts["teacher"], facts["epoch"]) == (ABOUT.teacher, 1 if number < 9 else 2)
        assert facts["loss"] == 0.5 * facts["epoch"]


@pytest.mark.parametrize(("limit", "value"), [("IMAGES_PER_TAR", 5), ("BYTES_PER_TAR", 15_000)])
def test_a_large_webdataset_is_divided_without_loss(folder, tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(pool_export, limit, value)
    export(folder, tmp_path / "to", "webdataset")
    tars = sorted((tmp_path / "to").iterdir())
    assert [tar.name for tar in tars] == [f"{n:06}.tar" for n in range(3)]
    assert [len(members(tar)) for tar in tars] == [15, 15, 9]
    keys = [name for tar in tars for name in members(tar) if name.endswith(".cls")]
    assert keys == [f"{n:06}.cls" for n in range(len(LABELS))]


def test_a_loss_that_is_none_is_null(tmp_path):
    folder = Folder.of(str(tmp_path / "pools"))
    keep(folder, [shard()], [math.nan], ABOUT)
    export(folder, tmp_path / "to", "webdataset")
    facts = members(tmp_path / "to" / "000000.tar")["000000.json"]
    assert json.loads(facts)["loss"] is None


@pytest.mark.parametrize("format", ["imagefolder", "webdataset"])
def test_an_export_holds_the_same_bytes_every_time(folder, tmp_path, format):
    for to in ("1", "2"):
        export(folder, tmp_path / to, format)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_it_is_told_how_far_the_export_is(folder, tmp_path):
    told = []
    export_pool(folder, str(tmp_path / "to"), "imagefolder", lambda *steps: told.append(steps))
    assert told == [(number, len(LABELS)) for number in range(1, len(LABELS) + 1)]


def test_only_one_file_is_read_before_its_images_are_written(folder, tmp_path, monkeypatch):
    written = []

    def noted(folder, name):
        written.append(len(contents(tmp_path / "to")))
        return read(folder, name)

    monkeypatch.setattr(pools, "read", noted)
    export(folder, tmp_path / "to")
    assert written == [0, 9]


# Mistakes


def test_a_folder_that_is_not_empty_is_left_alone(folder, tmp_path):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="to is not empty; choose another folder with --to"):
        export(folder, tmp_path / "to")
    assert contents(tmp_path / "to") == {"mine.txt": b"mine"}


def test_a_folder_of_folders_is_not_empty(folder, tmp_path):
    (tmp_path / "to" / "mine").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is not empty"):
        export(folder, tmp_path / "to")


def test_a_target_that_is_a_file_is_refused(folder, tmp_path):
    (tmp_path / "to").touch()
    with pytest.raises(ConfigError, match="--to"):
        export(folder, tmp_path / "to")


def test_an_unknown_format_gets_the_nearest_known_one(folder, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'webdataset'"):
        export(folder, tmp_path / "to", "webdatset")
    assert not (tmp_path / "to").exists()


def test_images_that_changed_are_not_exported(folder, tmp_path):
    name = folder.files()[0]
    folder.write(name, folder.read(name)[:-9])
    with pytest.raises(ConfigError, match="is damaged"):
        export(folder, tmp_path / "to")
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("format", ["imagefolder", "webdataset"])
def test_a_full_disk_is_told_with_advice(folder, tmp_path, format):
    with files_end_at(60), pytest.raises(DfkdError, match="holds a part only"):
        export(folder, tmp_path / "to", format)


def test_a_class_may_be_called_anything():
    names = pool_export.folder_names(("a/b", "a_b", "..", "", ".", "x\\y"))
    assert len(set(names)) == 6
    assert all(name and "/" not in name and not name.startswith(".") for name in names)
