"""What trackers are told, read back from what they wrote, and what keeps them from it."""

import importlib.util
import struct
from types import SimpleNamespace

import pytest
from small_tasks import plan
from tensorboardX.proto.event_pb2 import Event

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator import tracking
from dfkd.orchestrator.requests import SweepRequest, plan_sweep, request_of
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.sweeps import distill
from dfkd.orchestrator.tracking import TRACKERS, trackers, tracking_problems

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache")

SCORES = {1: 0.25, 2: 0.5, 3: 0.375}


@pytest.fixture(scope="module")
def sweep(stripes_file, dfkd_cache):
    return plan(stripes_file)


@pytest.fixture
def run(tmp_path):
    return Run(Folder.of(str(tmp_path / "mine")))


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def track(name, run, sweep, failed=False):
    """One trial of three epochs, as Tune tells of it; returns what was said."""
    (method,) = sweep.methods
    spec = sweep.trial("t000", method, {"student_lr": 0.125})
    said = []
    (tracker,) = trackers([name], run, {"t000": TrialRecord(spec=spec)}, "nowhere", said.append)
    trial = SimpleNamespace(config={"id": "t000", "run": run.folder.uri})
    tracker.setup()
    tracker.on_trial_start(0, [trial], trial)
    for epoch, score in SCORES.items():
        row = {"trial": "t000", "method": method, "epoch": epoch, "score": score}
        result = {"row": row, "epoch": epoch, "score": score, "training_iteration": 1}
        tracker.on_trial_result(0, [trial], trial, result)
    if failed:
        tracker.on_trial_result(0, [trial], trial, {"failed": "NaN", "done": True})
    tracker.on_trial_complete(0, [trial], trial)
    tracker.on_experiment_end([trial])
    return said


def events(folder):
    """What TensorBoard reads of a folder: records of length, checksum, event, checksum."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4


def test_tensorboard_gets_every_score_at_its_epoch(run, sweep):
    track("tensorboard", run, sweep)
    found = {
        event.step: value.simple_value
        for event in events(run.folder.local / "tracking" / "tensorboard" / "t000")
        for value in event.summary.value
        if value.tag == "ray/tune/score"
    }
    assert found == SCORES


@pytest.fixture
def mlflow_runs(run, sweep):
    """What MLflow's client finds in a store: the runs of the sweep."""

    def found(uri):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name("mine")
        return client, client.search_runs([experiment.experiment_id])

    return found


def test_mlflow_gets_recipe_and_every_score_at_its_epoch(run, sweep, mlflow_runs):
    track("mlflow", run, sweep)
    client, (one,) = mlflow_runs(f"sqlite:///{run.folder.local}/tracking/mlflow.db")
    scores = client.get_metric_history(one.info.run_id, "score")
    assert {metric.step: metric.value for metric in scores} == SCORES
    assert (one.info.run_name, one.data.params["student_lr"]) == ("t000", "0.125")
    assert one.info.status == "FINISHED"


def test_mlflow_uses_the_store_that_the_environment_names(
    run, sweep, mlflow_runs, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    track("mlflow", run, sweep, failed=True)
    _, (one,) = mlflow_runs(str(tmp_path / "store"))
    assert one.info.status == "FAILED"
    assert not (run.folder.local / "tracking").exists()


class Broken:
    """A logger whose server answers once."""

    def setup(self): ...

    def log_trial_start(self, trial): ...

    def log_trial_result(self, iteration, trial, result):
        raise OSError("no server")


def test_a_tracker_that_fails_is_said_to_and_told_no_more(run, sweep, monkeypatch):
    monkeypatch.setitem(tracking.LOGGERS, "mlflow", lambda sweep, root: Broken())
    (said,) = track("mlflow", run, sweep)
    assert "--track mlflow failed" in said and "no server" in said


def test_a_tracker_that_cannot_start_is_the_users_to_mend(run, sweep, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://there")
    with pytest.raises(ConfigError, match=r"--track mlflow cannot start: .*nonsense"):
        track("mlflow", run, sweep)


def test_a_tracker_that_nobody_knows_is_named_with_the_nearest(stripes_file):
    with pytest.raises(ConfigError, match=r"tracker .mlflov.\..*mlflow"):
        plan_sweep(SweepRequest(task=stripes_file, track=("mlflov",)))


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_comes_with_what_installs_it(name, monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    (problem,) = tracking_problems([name], str(tmp_path))
    assert problem.startswith(f"--track {name} needs") and "pip install" in problem


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs the extra mlflow")
def test_remote_storage_needs_a_server(monkeypatch):
    assert len(tracking_problems(["tensorboard", "mlflow"], "s3://bucket/runs")) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert not tracking_problems(["mlflow"], "s3://bucket/runs")


def test_a_resumed_sweep_is_tracked_as_it_was(run, sweep, stripes_teacher):
    request = SweepRequest(task="stripes", track=("tensorboard",))
    run.create(sweep, request=request.remembered(), command="")
    assert tuple(request_of(run)[0].track) == ("tensorboard",)


def test_distill_says_that_it_is_not_tracked(stripes_file):
    with pytest.raises(ConfigError, match="not tracked"):
        distill(stripes_file, track=("tensorboard",))
