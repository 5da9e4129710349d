"""`dfkd submit` and what follows it: what is printed, sent and refused; no cluster is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
import yaml
from command_line import as_json, complaint, dfkd, told

from dfkd.orchestrator.jobs import Job, JobState, farewell

pytest_plugins = ["small_task_fixtures", "command_line"]
pytestmark = pytest.mark.usefixtures("dfkd_cache", "no_ray")

AT = "http://head:8265"
ON_KUBERNETES = ("--image", "registry.example/dfkd:1", "--storage", "s3://bucket/runs")


@dataclass
class Cluster:
    """A backend that runs nothing: it has printed `lines`, and ended as `state` says."""

    lines: list[str] = field(default_factory=list)
    end: JobState = field(default_factory=lambda: JobState("succeeded"))
    sent: list[Job] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def submit(self, job):
        self.sent.append(job)

    def state(self, name):
        return self.end

    def logs(self, name):
        return iter(self.lines)

    def stop(self, name):
        self.stopped.append(name)

    def leave(self, name):
        return farewell(name, ("--address", AT))


@pytest.fixture
def cluster(monkeypatch):
    """What every address leads to."""
    made = Cluster()
    monkeypatch.setattr("dfkd.orchestrator.submitting.running_ray", lambda *where: made)
    return made


@pytest.fixture(scope="module")
def printed(stripes_file, stripes_teacher, tmp_path_factory):
    """What a sweep's driver prints with --json."""
    storage = tmp_path_factory.mktemp("storage")
    return told("distill", stripes_file, "--storage", storage, "--name", "there", "--json")


def rayjob(*options):
    """The RayJob that these options make, and its entrypoint."""
    made = yaml.safe_load(told("submit", "digits", *ON_KUBERNETES, "--dry-run", *options))
    return made, made["spec"]["entrypoint"]


def test_a_dry_run_prints_a_rayjob_that_runs_the_same_sweep():
    options = ("--trials", 64, "--gpus-per-worker", 1, "--set", "bn_weight=5", "--name", "big")
    made, entrypoint = rayjob(*options)
    assert made["kind"] == "RayJob"
    assert made["metadata"]["name"] == "big"
    assert entrypoint.startswith("dfkd sweep digits --trials 64 --gpus-per-worker 1.0 ")
    for words in ("--set bn_weight=5", "--name big", "--storage s3://bucket/runs", "--json"):
        assert words in entrypoint


def test_a_job_has_a_name_that_kubernetes_takes_where_nobody_gave_one():
    made, entrypoint = rayjob()
    assert made["metadata"]["name"].startswith("digits-")
    assert f"--name {made['metadata']['name']}" in entrypoint


def test_what_is_wrong_with_the_sweep_and_with_the_cluster_is_told_at_once():
    said = complaint(
        *("submit", "digits", *ON_KUBERNETES, "--method", "nayr", "--set", "bn_weight=-1"),
        *("--workers-min", 9, "--workers-max", 3, "--name", "Not_DNS"),
    )
    for words in ("Did you mean 'nayer'", "--workers-min 9", "Not_DNS"):
        assert words in said


def test_a_local_folder_is_no_storage_for_pods():
    assert "--storage" in complaint("submit", "digits", "--image", "i", "--dry-run")


@pytest.mark.parametrize("task", ["s3://bucket/mine.yaml", "/claimed/mine.yaml"])
def test_a_task_that_only_the_cluster_can_read_is_taken_on_trust(task):
    shown = told("submit", task, *ON_KUBERNETES, "--claim", "tasks:/claimed", "--dry-run")
    assert f"dfkd sweep {task} " in shown


def test_what_lies_beside_a_task_file_cannot_reach_pods(stripes_file):
    said = complaint("submit", stripes_file, *ON_KUBERNETES, "--dry-run")
    assert "beside it" in said


def test_options_of_pods_mean_nothing_to_a_ray_that_runs():
    said = complaint("submit", "digits", "--storage", "/s", "--address", AT, "--gpus", 2)
    assert "--gpus" in said and "Kubernetes" in said


def test_a_running_rays_dry_run_says_what_would_run_and_travel(stripes_file):
    shown = told(
        *("submit", stripes_file, "--storage", "/runs", "--address", AT, "--dry-run"),
        *("--name", "mine", "--python", "/there/python"),
    )
    assert "/there/python -m dfkd.cli sweep" in shown
    assert "--name mine --storage /runs --json" in shown
    assert "stripes.npz" in shown


def test_a_followed_job_ends_as_a_sweep_here_does(cluster, printed):
    cluster.lines = printed.splitlines()
    shown = told("submit", "digits", "--storage", "/runs", "--address", AT, "--name", "mine")
    (job,) = cluster.sent
    assert (job.name, job.storage, job.arguments) == ("mine", "/runs", ("digits",))
    for words in ("t000 nayer started", "best student (t000)", "the student is in"):
        assert words in shown


def test_a_followed_job_in_json_prints_what_its_driver_prints(cluster, printed):
    cluster.lines = printed.splitlines()
    shown = as_json(told("status", "mine", "--watch", "--address", AT, "--json"))
    theirs = [json.loads(line) for line in cluster.lines]
    assert [line["event"] for line in shown] == [line["event"] for line in theirs]
    assert shown[-1] == theirs[-1]


def test_a_detached_job_is_left_with_the_way_back(cluster):
    shown = told(
        *("submit", "digits", "--storage", "/runs", "--address", AT, "--name", "mine", "--detach")
    )
    assert f"dfkd status mine --watch --address {AT}" in shown
    assert f"dfkd stop mine --address {AT}" in shown


def test_a_job_that_fails_is_exit_status_1_with_its_reason(cluster):
    cluster.end = JobState("failed", "no module named torch")
    result = dfkd("status", "mine", "--watch", "--address", AT)
    assert result.exit_code == 1
    assert "no module named torch" in result.stderr


def test_a_jobs_state_can_be_had_without_following_it(cluster):
    cluster.end = JobState("pending", "2 pods wait for a GPU")
    assert "mine is pending: 2 pods wait" in told("status", "mine", "--address", AT)
    (found,) = as_json(told("status", "mine", "--address", AT, "--json"))
    assert (found["name"], found["status"]) == ("mine", "pending")


def test_a_job_is_stopped_by_its_name(cluster):
    assert "--name mine resumes" in told("stop", "mine", "--address", AT)
    assert cluster.stopped == ["mine"]


def test_a_jobs_lines_are_printed_as_they_are(cluster):
    cluster.lines = ["one", '{"event": "two"}']
    assert told("logs", "mine", "--address", AT) == 'one\n{"event": "two"}\n'


@pytest.mark.parametrize("command", ["stop", "logs"])
def test_where_a_job_runs_must_be_told(command):
    assert "--address" in complaint(command, "mine")


def test_a_finished_run_is_watched_to_its_end_at_once(stripes_storage, done):
    shown = told("status", "done", "--watch", "--storage", stripes_storage)
    assert "best student (t000)" in shown
    assert "done is finished" in shown
