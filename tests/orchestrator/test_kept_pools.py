"""Pools that a trial leaves on storage, and trials that begin with one."""

import pytest
from small_tasks import EPOCHS, files_end_at, untimed, write_task

from dfkd.methods.errors import ConfigError, SweepFailed, TrialFailed
from dfkd.methods.memory import Shard
from dfkd.methods.team import Alone
from dfkd.orchestrator import distill, resume
from dfkd.orchestrator.commons import Both, KeepingShards, KeptShards
from dfkd.orchestrator.links import connect
from dfkd.orchestrator.pool_files import survey
from dfkd.orchestrator.pool_service import Address
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.sweeps import SweepInterrupted
from dfkd.orchestrator.watching import Silent

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache")

SIZES = [(6, 6)]


@pytest.fixture(scope="module")
def kept(stripes_file, dfkd_cache, tmp_path_factory):
    """The run folder of a trial that kept its pool."""
    storage = str(tmp_path_factory.mktemp("kept"))
    distill(stripes_file, storage=storage, name="kept", keep_pool=True)
    return Folder.of(f"{storage}/kept")


@pytest.fixture(scope="module")
def pool(kept):
    return kept.child("pools")


def rows(result):
    (record,) = result.records
    return untimed(record.rows)


class Interrupting(Silent):
    """Presses Ctrl-C after the second epoch."""

    def epoch_ended(self, spec, row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt


class Member(Alone):
    """One worker of a team."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


# Keeping


def test_all_that_was_taught_is_kept_with_where_it_comes_from(kept, pool):
    (record,) = Run(kept).records()
    files = survey(pool)
    assert sum(file.images for file in files) == record.rows[-1]["pool_images"]
    assert {file.about.epoch for file in files} == set(range(EPOCHS))
    about = files[0].about
    assert (about.task, about.trial, about.method) == ("stripes", "t000", "nayer")
    assert about.teacher == Run(kept).facts()["definition"]["teacher"]
    assert about.classes == ("top", "middle", "bottom")


def test_to_keep_a_pool_changes_no_number(stripes_file, kept, tmp_path):
    plain = distill(stripes_file, storage=str(tmp_path))
    assert not plain.run.folder.child("pools").files()
    assert rows(plain) == untimed(Run(kept).records()[0].rows)


def test_an_interrupted_trial_keeps_the_same_pool_in_the_end(stripes_file, pool, tmp_path):
    with pytest.raises(SweepInterrupted) as interruption:
        distill(stripes_file, storage=str(tmp_path), keep_pool=True, watcher=Interrupting())
    run = interruption.value.run
    resume(run.name, str(tmp_path))
    assert run.folder.child("pools").files() == pool.files()


def test_a_pool_that_cannot_be_written_ends_the_trial_with_the_reason(stripes_file, tmp_path):
    blocked = tmp_path / "runs" / "full"
    blocked.mkdir(parents=True)
    (blocked / "pools").write_text("no folder")
    with pytest.raises(SweepFailed, match=r"pools cannot be written.*without --keep-pool"):
        distill(stripes_file, storage=str(tmp_path / "runs"), name="full", keep_pool=True)


def test_a_full_disk_is_said_when_a_pool_is_kept(kept, pool, tmp_path, stripes_surroundings):
    (record,) = Run(kept).records()
    links = connect(Run(kept), record.spec, stripes_surroundings, None, None)
    about = links.commons.about
    keeping = KeepingShards(links.commons.commons, Folder.of(str(tmp_path)), about)
    (shard,) = KeptShards(pool, Alone()).draw(1, SIZES, 0)
    with files_end_at(100), pytest.raises(TrialFailed, match="make room"):
        keeping.add([shard], [0.0], 0)


# Starting from one


def test_a_trial_learns_from_a_kept_pool_and_makes_less(stripes_file, kept, tmp_path):
    options = {"storage": str(tmp_path), "from_pool": kept.uri}
    result = distill(stripes_file, settings={"drawn_share": 1.0}, **options)
    assert sum(row["images_made"] for row in rows(result)) < 20
    assert sum(row["images_drawn"] for row in rows(result)) > 30
    assert rows(distill(stripes_file, **options)) == rows(distill(stripes_file, **options))


def test_a_trial_that_is_resumed_draws_on_where_it_was(stripes_file, kept, tmp_path):
    options = {"from_pool": kept.uri, "settings": {"drawn_share": 0.5}}
    whole = distill(stripes_file, storage=str(tmp_path / "whole"), **options)
    storage = str(tmp_path / "cut")
    with pytest.raises(SweepInterrupted) as interruption:
        distill(stripes_file, storage=storage, watcher=Interrupting(), **options)
    assert rows(resume(interruption.value.run.name, storage)) == rows(whole)


def test_the_workers_of_a_trial_draw_different_shards_and_together_all(pool):
    def drawn(team, skip=0):
        return KeptShards(pool, team).draw(10**6, SIZES, skip)

    def bytes_of(shards: list[Shard]):
        return sorted(shard.images.numpy().tobytes() for shard in shards)

    whole = drawn(Alone())
    parts = [drawn(Member(rank, 2)) for rank in range(2)]
    assert bytes_of(parts[0] + parts[1]) == bytes_of(whole) and len(whole) > 3
    assert bytes_of(drawn(Member(1, 2), skip=1)) == bytes_of(parts[1][1:])


def test_images_of_other_sizes_are_left_where_they_are(pool):
    assert KeptShards(pool, Alone()).draw(10, [(8, 8)], 0) == []


def test_a_pool_of_another_teacher_is_refused(kept, tmp_path):
    other = write_task(tmp_path, {"teacher.epochs": 3})
    with pytest.raises(ConfigError, match="made from another teacher of stripes"):
        distill(other, storage=str(tmp_path), from_pool=kept.uri)


def test_a_pool_that_is_not_there_is_told_before_anything_starts(stripes_file, tmp_path):
    with pytest.raises(ConfigError, match=r"no sweep 'keptt'"):
        distill(stripes_file, storage=str(tmp_path), from_pool="keptt")


# Both


class Stock:
    others_add = True

    def __init__(self, shard):
        self.shard, self.asked, self.left = shard, [], []

    def draw(self, images, sizes, drawn):
        self.asked.append(images)
        return [self.shard]

    def add(self, shards, losses, epoch):
        self.left.append(epoch)


def test_of_two_sources_the_second_makes_up_for_what_the_first_lacks(pool):
    whole = KeptShards(pool, Alone()).draw(10**6, SIZES, 0)
    images = sum(len(shard.images) for shard in whole)
    second = Stock(whole[0])
    both = Both(KeptShards(pool, Alone()), second)
    both.draw(1, SIZES, 0)
    assert not second.asked
    both.draw(images, SIZES, 0)
    assert second.asked == [len(whole[0].images)]
    both.add([], [], 3)
    assert second.left == [3] and both.others_add


@pytest.mark.parametrize(("mode", "shared"), [("exact", False), ("teacher", True)])
def test_a_worker_is_linked_as_its_sweep_shares(kept, stripes_surroundings, mode, shared):
    (record,) = Run(kept).records()
    links = connect(Run(kept), record.spec, stripes_surroundings, Address("nowhere", mode), None)
    assert links.commons.others_add == shared
    assert (type(links.shelf).__name__ == "RayShelf") != shared
