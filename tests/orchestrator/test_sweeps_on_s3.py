"""A whole sweep on S3 that fails now and then: the same student as on a local disk."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from s3_server import now_and_then
from small_tasks import EPOCHS, Scores, plan, quick_trial, untimed

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator import distill, filesystems, leases, patience, resume, trials
from dfkd.orchestrator.catalog import export_again, find_run, state, summary
from dfkd.orchestrator.evaluation import evaluate
from dfkd.orchestrator.leases import LEASE, LeaseLost, Pace
from dfkd.orchestrator.patience import Patience, StorageFailed
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.sweeps import SweepInterrupted
from dfkd.orchestrator.trials import Trial
from dfkd.orchestrator.watching import Silent

pytest_plugins = ["s3_server", "small_task_fixtures"]

FAILURES = ("busy", "broken", "reset", "cut", "lost reply")


@pytest.fixture
def quick(monkeypatch):
    """Short pauses and leases; attempts by dfkd, not by pyarrow, whose pauses take seconds."""
    monkeypatch.setattr(filesystems, "S3_ATTEMPTS", 1)
    monkeypatch.setattr(leases, "PACE", Pace(renew=0.2, expire=3.0, settle=0.1))
    brief = Patience(seconds=60.0, first=0.01, most=0.05)
    monkeypatch.setattr(patience.Patience, "pause", lambda self, attempt: brief.most / 2)
    filesystems._s3.cache_clear()
    yield
    filesystems._s3.cache_clear()


@pytest.fixture
def storage(s3, quick, tmp_path):
    """A storage folder in the bucket."""
    return s3.uri(tmp_path.name)


def weights(result):
    return result.exported.read("model.safetensors")


def test_a_sweep_gives_the_same_student_as_on_a_local_disk(s3, storage, stripes_file, done):
    with s3.failing(now_and_then(0.1, *FAILURES)):
        result = distill(stripes_file, name="mine", storage=storage)
    assert weights(result) == weights(done)
    assert untimed(result.best.rows) == untimed(done.best.rows)
    assert result.run.folder.files() == [
        "controls.safetensors",
        "jury.json",
        "results.parquet",
        "sweep.json",
        "teacher.safetensors",
    ]


def test_a_sweep_whose_storage_went_away_is_resumed_with_its_trial(
    s3, storage, stripes_file, student, monkeypatch
):
    def go_away():
        s3.judge = lambda method, path: "busy"
        monkeypatch.setattr(Patience, "pause", lambda self, attempt: 1 + self.seconds)

    with pytest.raises(StorageFailed):
        begin(stripes_file, storage, watcher=Interrupting(2, go_away))
    s3.judge = lambda method, path: None
    assert find_run("mine", storage).records()[0].outcome is None
    assert weights(resume("mine", storage)) == student


class Interrupting(Silent):
    """Presses Ctrl-C after an epoch, or does something else."""

    def __init__(self, epoch, act=None):
        self.epoch, self.act = epoch, act

    def epoch_ended(self, spec, row):
        if row["epoch"] == self.epoch:
            if self.act is None:
                raise KeyboardInterrupt
            self.act()


@pytest.fixture(scope="module")
def student(stripes_file, tmp_path_factory, dfkd_cache):
    """The weights that a sweep without a jury leaves on a local disk."""
    local = str(tmp_path_factory.mktemp("local"))
    return weights(distill(stripes_file, storage=local, select="accuracy"))


def begin(task, storage, **options):
    return distill(task, name="mine", storage=storage, select="accuracy", **options)


def test_an_interrupted_sweep_is_resumed_by_its_name_and_storage(storage, stripes_file, student):
    with pytest.raises(SweepInterrupted) as interruption:
        begin(stripes_file, storage, watcher=Interrupting(2))
    assert f"dfkd resume mine --storage '{storage}'" in str(interruption.value)
    assert state(find_run("mine", storage)) == "interrupted"
    assert weights(resume("mine", storage)) == student


def test_a_sweep_is_seen_running_and_refused_to_others(storage, stripes_file):
    seen = []

    def look():
        seen.append(state(find_run("mine", storage)))
        with pytest.raises(ConfigError, match="running already"):
            resume("mine", storage)

    begin(stripes_file, storage, watcher=Interrupting(2, look))
    assert seen == ["running"] and state(find_run("mine", storage)) == "finished"


def test_a_killed_driver_counts_as_interrupted_and_its_sweep_is_resumed(
    storage, stripes_file, student
):
    with pytest.raises(SweepInterrupted):
        begin(stripes_file, storage, watcher=Interrupting(2))
    run = find_run("mine", storage)
    run.note(state="running")  # as the killed one left it, with its lease
    killed = {"owner": "killed", "host": "gone", "process": 1, "renewals": 9}
    run.folder.write_json(LEASE, {**killed, "renewed": time.time() - 5, "expires_after": 2.0})
    assert state(run) == "interrupted"
    assert weights(resume("mine", storage)) == student


def test_a_driver_that_lost_its_sweep_stops_and_writes_nothing(storage, stripes_file):
    folder = Folder.of(storage).child("mine")
    left = {}

    def take_over():
        lease = folder.read_json(LEASE)
        while lease["owner"] != "another":  # a renewal on its way may come after ours
            folder.write_json(LEASE, {**lease, "owner": "another"})
            time.sleep(1.0)
            lease = folder.read_json(LEASE)
        left.update({name: folder.read(name) for name in folder.files()})

    with pytest.raises(LeaseLost):
        begin(stripes_file, storage, watcher=Interrupting(2, take_over))
    assert {name: folder.read(name) for name in folder.files()} == left
    assert folder.read_json("sweep.json")["state"] == "running"
    assert folder.read_json(LEASE)["owner"] == "another"


def test_commands_that_look_at_a_sweep_find_it_on_s3(s3, storage, stripes_file, student, tmp_path):
    with s3.counting() as asked:
        result = begin(stripes_file, storage)
    assert len([path for _, path in asked if LEASE not in path]) < 100
    assert summary(find_run(None, storage))["per_trial"][0]["epochs_run"] == EPOCHS
    assert evaluate("mine", storage) == evaluate(result.exported.uri, storage)
    again = export_again("mine", storage, str(tmp_path / "best"), None, ["safetensors"])
    assert again.read("model.safetensors") == student


def test_no_teacher_is_trained_for_a_storage_that_cannot_be_written(
    s3, storage, stripes_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "empty"))
    with (
        s3.failing(lambda method, path: "denied"),
        pytest.raises(ConfigError, match="ACCESS_DENIED"),
    ):
        distill(stripes_file, storage=storage)
    assert not (tmp_path / "empty").exists()


def test_what_a_ticket_brings_to_another_process_is_guarded(storage):
    run = Run(Folder.of(storage).child("mine"))
    with run.lock() as held:
        ticket = held.ticket
        Run.of(ticket).folder.child("trials", "t000").write("file", b"")
    with pytest.raises(LeaseLost):
        Run.of(ticket).folder.child("trials", "t000").write("file", b"late")
    assert run.trial_folder("t000").read("file") == b""
    assert replace(run.folder, guard=None) == run.folder


# What a sweep is made of may lie there too


@pytest.fixture
def uploaded(storage, stripes_file, stripes_teacher):
    """A folder with the task's YAML, which names no images, and the teacher."""
    folder = Folder.of(storage).child("inputs")
    task = yaml.safe_load(Path(stripes_file).read_text())
    del task["data"]
    folder.write("stripes.yaml", yaml.safe_dump(task).encode())
    folder.write("teacher.safetensors", stripes_teacher.to_bytes())
    return folder


@pytest.mark.parametrize("network", ["", "convnet-4-4:"])
def test_task_and_teacher_may_be_uris(uploaded, storage, stripes_teacher, network, dfkd_cache):
    spec = plan(
        uploaded.uri_of("stripes.yaml"),
        teacher=network + uploaded.uri_of("teacher.safetensors"),
        storage=storage,
    )
    assert spec.task.name == "stripes"
    assert spec.teacher.fingerprint == stripes_teacher.fingerprint


def test_a_teacher_that_is_not_there_is_named(uploaded, storage):
    missing = uploaded.uri_of("none.safetensors")
    with pytest.raises(ConfigError, match=r"teacher file s3://bucket.*none.* does not exist"):
        plan(uploaded.uri_of("stripes.yaml"), teacher=missing, storage=storage)


# What it costs


def asked_for(requests):
    return [f"{method} {path.partition('?')[0].rsplit('/', 1)[-1]}" for method, path in requests]


def test_an_epoch_takes_a_request_if_it_is_the_best_and_a_checkpoint_two(
    s3, storage, stripes_file, stripes_surroundings, monkeypatch
):
    monkeypatch.setattr(trials, "SAVING_SHARE", -1.0)  # no checkpoint but those below
    around = replace(stripes_surroundings, score=Scores(0, 9, 1, 1))
    trial = Trial(quick_trial(stripes_file), around, Folder.of(storage).child("t000"))
    trial.step()
    with s3.counting() as asked:
        trial.step()
    assert asked_for(asked) == ["PUT student.safetensors"]
    with s3.counting() as asked:
        trial.step()
    assert not asked
    trial.save()
    with s3.counting() as asked:
        trial.save()
    assert asked_for(asked) == ["PUT history.json", "PUT checkpoint.pt"]
