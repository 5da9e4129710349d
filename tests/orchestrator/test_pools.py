import pytest
import torch
from kept_pools import CLASSES, keep_pool, shard

from dfkd.methods.errors import ConfigError
from dfkd.methods.memory import Shard
from dfkd.orchestrator.pool_files import survey
from dfkd.orchestrator.pools import balance, distinct, draw, find_pool, samples, survey_whole
from dfkd.orchestrator.runs import SWEEP
from dfkd.orchestrator.storage import Folder


@pytest.fixture
def storage(tmp_path):
    """A storage folder with two sweeps, `kept` with a pool and `plain` without."""
    folder = Folder.of(str(tmp_path / "runs"))
    for name in ("kept", "plain"):
        folder.child(name).write_json(SWEEP, {})
    keep_pool(folder.child("kept", "pools"))
    return folder


@pytest.fixture
def folder(storage):
    return storage.child("kept", "pools")


# Finding


def test_a_pool_is_found_by_its_sweeps_name_its_run_folder_or_its_own(storage, folder):
    for name in ("kept", storage.child("kept").uri, folder.uri, f"file://{folder.uri}"):
        assert survey(find_pool(name, storage.uri)) == survey(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kpet", r"no sweep 'kpet'\. Did you mean 'kept'\?.*folder of a pool's \.arrow files"),
        ("plain", "sweep plain kept no pool; a sweep run with --keep-pool keeps one"),
        ("{storage}", r"holds no pool \(\.arrow files\)"),
        ("{storage}/kept/sweep.json", "is a file; give the folder that it lies in"),
        ("nowhere://bucket", "nowhere://bucket cannot be used"),
    ],
)
def test_what_is_no_pool_is_explained(storage, name, words):
    with pytest.raises(ConfigError, match=words):
        find_pool(name.format(storage=storage.uri), storage.uri)


def test_every_damaged_file_of_a_pool_is_named(folder):
    for name in ("a.arrow", "b.arrow"):
        folder.write(name, b"damaged")
    with pytest.raises(ConfigError) as refusal:
        survey_whole(folder)
    assert len(refusal.value.problems) == 2


def test_images_of_other_classes_do_not_belong_to_a_pool(folder):
    keep_pool(folder, shard(1), classes=(*CLASSES, "new"), task="other", epoch=9)
    with pytest.raises(ConfigError, match="is of task other, with other classes than"):
        survey_whole(folder)


def test_a_folder_without_files_is_no_pool(storage):
    with pytest.raises(ConfigError, match="holds no pool"):
        survey_whole(storage)


# Contents


def test_the_balance_counts_all_files(folder):
    keep_pool(folder, shard(1, 4), epoch=2)
    assert balance(survey(folder)) == {"top": 5, "middle": 4, "bottom/low": 4}


@pytest.mark.parametrize(
    "classes", [["a", "A"], ["crane", "crane", "crane-0"], ["a-1", "a", "a", "a-2"]]
)
def test_classes_of_one_name_are_told_apart(classes):
    assert len({name.casefold() for name in distinct(classes)}) == len(classes)


def test_all_images_are_gone_through_in_the_order_of_the_files(folder):
    keep_pool(folder, shard(5, size=(3, 2, 2)), epoch=0)
    found = list(samples(folder, survey_whole(folder)))
    assert [sample.about.epoch for sample in found] == [0] * 9 + [1] * 9
    images = [*shard(5, size=(3, 2, 2)).images, *shard().images]
    assert all(torch.equal(s.image, image) for s, image in zip(found, images, strict=True))
    assert [sample.label for sample in found] == [0, 1, 2] * 6


def coded(epoch, count=30):
    """A shard whose pixels say which image it is: its epoch, its label and its row."""
    images = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    images[:, 0, 0, 0], images[:, 0, 0, 1], images[:, 0, 1, 0] = epoch, labels, torch.arange(count)
    return Shard(images, labels)


def test_images_are_drawn_of_their_class_without_repetition_and_the_same_every_time(tmp_path):
    folder = Folder.of(str(tmp_path))
    for epoch in range(3):
        keep_pool(folder, coded(epoch), epoch=epoch)
    files = survey_whole(folder)
    drawn = draw(folder, files, 8)
    for label, images in enumerate(drawn):
        keys = [image[0].flatten().tolist()[:3] for image in images]
        assert [key[1] for key in keys] == [label] * 8
        assert sorted(keys, key=lambda key: key[0]) == keys
        assert len({tuple(key) for key in keys}) == 8
        assert len({key[0] for key in keys}) > 1  # not all of the first file
        assert max(key[2] for key in keys) >= 20  # nor the first ones of each
    for images, again in zip(drawn, draw(folder, files, 8), strict=True):
        assert all(map(torch.equal, images, again))


def test_where_there_are_few_images_all_are_drawn(folder):
    keep_pool(folder, shard(1, 4), epoch=2)
    assert [len(images) for images in draw(folder, survey_whole(folder), 100)] == [5, 4, 4]
