import importlib.util
import os
import shutil
import sys
import time

import pytest
from fake_kubernetes import fake_cluster, with_times, write_kubeconfig, write_kubectl

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator import kubernetes
from dfkd.orchestrator.cluster_options import ClusterOptions
from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.jobs import Job, JobState
from dfkd.orchestrator.kube_objects import Exists, Unreachable, lines_of
from dfkd.orchestrator.kubectl import explained
from dfkd.orchestrator.kubernetes import Kubernetes, state_of

pytestmark = pytest.mark.timeout(60)

JOB = Job(name="mine", storage="s3://bucket/runs", arguments=("digits",))
OPTIONS = ClusterOptions(image="dfkd:1", namespace="team")
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


every_way = pytest.mark.parametrize("backend", ["client", "stand-in", "kubectl"], indirect=True)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(kubernetes, "PAUSE", 0.02)
    with fake_cluster() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path / "config", cluster)))
        yield cluster


def without_client(monkeypatch):
    real = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "kubernetes" else real(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)


@pytest.fixture(params=["client", "stand-in"])
def backend(request, cluster, tmp_path, monkeypatch) -> Kubernetes:
    """By the official client, or by a stand-in for kubectl; some tests also by kubectl itself."""
    if request.param == "client":
        pytest.importorskip("kubernetes")
    else:
        without_client(monkeypatch)
        monkeypatch.setenv("HOME", str(tmp_path))  # kubectl caches there what it has asked
    if request.param == "stand-in":
        write_kubectl(tmp_path / "kubectl", sys.executable)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    elif request.param == "kubectl" and shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl on PATH")
    return Kubernetes(OPTIONS, Resources())


@every_way
def test_a_sweep_is_sent_followed_and_ended(backend, cluster, tmp_path):
    (tmp_path / "task.yaml").write_text("task: mine\n")
    backend.submit(
        Job(name="mine", storage="s3://bucket/runs", arguments=(str(tmp_path / "task.yaml"),))
    )
    sent = cluster.objects["rayjobs", "mine"]
    config = cluster.objects["configmaps", "mine-task"]
    assert sent["spec"]["entrypoint"].startswith("dfkd sweep /etc/dfkd/task.yaml ")
    (owner,) = config["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("RayJob", sent["metadata"]["uid"])
    assert backend.state("mine").status == "pending"
    cluster.status("mine", **RUNNING)
    cluster.add_pod(
        "mine-x", "Running", with_times("\x1b[37mone\x1b[39m", "two {}"), job_name="mine"
    )
    lines = backend.logs("mine")
    assert [next(lines), next(lines)] == ["one", "two {}"]
    assert backend.state("mine") == JobState("running")
    cluster.status("mine", **DONE)
    assert list(lines) == [] and backend.state("mine") == JobState("succeeded")
    backend.stop("mine")
    assert ("rayjobs", "mine") not in cluster.objects
    assert backend.state("mine") == JobState("stopped", "its RayJob was deleted")


@every_way
def test_a_stream_that_breaks_is_taken_up_where_it_broke(backend, cluster):
    backend.submit(JOB)
    cluster.status("mine", **RUNNING)
    whole = with_times("one", "two", "three", "four")
    torn = [whole[:40], whole[:-10], whole]
    cluster.add_pod("mine-x", "Succeeded", *torn, job_name="mine")
    cluster.add_pod("other", "Succeeded", with_times("not mine"), job_name="other")
    lines = backend.logs("mine")
    assert [next(lines) for _ in range(4)] == ["one", "two", "three", "four"]
    cluster.status("mine", **DONE)
    assert list(lines) == []


def test_what_each_of_a_jobs_submitters_printed_is_read_in_turn(backend, cluster):
    backend.submit(JOB)
    cluster.add_pod("mine-a", "Failed", with_times("one"), job_name="mine")
    cluster.add_pod("mine-b", "Succeeded", with_times("one", "two"), job_name="mine")
    cluster.add_pod("mine-c", "Pending", b"", job_name="mine")
    cluster.status("mine", **DONE)
    assert list(backend.logs("mine")) == ["one", "one", "two"]


def test_what_an_earlier_job_of_the_name_printed_is_not_read(cluster):
    cluster.add_pod("mine-a", "Succeeded", with_times("old"), job_name="mine")
    backend = Kubernetes(OPTIONS, Resources())
    backend.submit(JOB)
    cluster.add_pod("mine-b", "Succeeded", with_times("new"), job_name="mine")
    cluster.status("mine", **DONE)
    assert list(backend.logs("mine")) == ["new"]


def test_what_ray_says_of_its_own_is_left_out(cluster):
    backend = Kubernetes(OPTIONS, Resources())
    backend.submit(JOB)
    rays = "2026-11-22 02:35:30,326\t{} cli.py:66 -- \x1b[32mJob 'one' submitted\x1b[39m"
    said = ["", rays.format("SUCC"), "Running entrypoint for job one: dfkd", rays.format("ERR")]
    cluster.add_pod("mine-a", "Succeeded", with_times(*said, "{}"), job_name="mine")
    cluster.status("mine", **DONE)
    last, line = backend.logs("mine")
    assert "ERR" in last and "\x1b" not in last and line == "{}"


def test_an_ended_job_makes_room_for_one_that_resumes_it(backend, cluster):
    backend.submit(JOB)
    first = cluster.objects["rayjobs", "mine"]["metadata"]["uid"]
    cluster.status("mine", jobDeploymentStatus="Failed", reason="AppFailed")
    backend.submit(JOB)
    assert cluster.objects["rayjobs", "mine"]["metadata"]["uid"] != first


def test_a_job_that_runs_is_not_disturbed(backend, cluster):
    backend.submit(JOB)
    cluster.status("mine", **RUNNING)
    before = dict(cluster.objects)
    with pytest.raises(ConfigError, match="RayJob 'mine' runs already in namespace team"):
        backend.submit(JOB)
    assert cluster.objects == before


def test_what_is_not_allowed_is_the_users_to_settle(backend, cluster):
    cluster.answers = [403]
    with pytest.raises(ConfigError, match=r"does not let you do that: .*because"):
        backend.submit(JOB)


def test_a_cluster_that_fails_may_be_asked_again(backend, cluster):
    cluster.answers = [500]
    with pytest.raises(Unreachable):
        backend.state("mine")


def test_a_job_that_nobody_sent_is_told_of(backend):
    with pytest.raises(ConfigError, match="no RayJob 'mine' in namespace team"):
        backend.state("mine")
    with pytest.raises(ConfigError, match="no RayJob 'mine' in namespace team"):
        backend.stop("mine")


@pytest.mark.parametrize("has_client", [True, False])
def test_without_a_namespace_it_is_that_of_the_context(cluster, tmp_path, monkeypatch, has_client):
    if not has_client:
        without_client(monkeypatch)
        write_kubectl(tmp_path / "kubectl", sys.executable)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert " --namespace team" in Kubernetes(ClusterOptions()).leave("mine")


def test_a_job_without_its_task_is_not_left_behind(cluster, tmp_path):
    (tmp_path / "task.yaml").write_text("task: mine\n")
    job = Job(name="mine", storage="s3://b", arguments=(str(tmp_path / "task.yaml"),))
    cluster.answers = [None, None, 500]  # a look, the RayJob, its task
    with pytest.raises(Unreachable):
        Kubernetes(OPTIONS, Resources()).submit(job)
    assert not cluster.objects


def test_a_mistake_in_the_options_sends_nothing(cluster):
    with pytest.raises(ConfigError, match="--image is the address"):
        Kubernetes(ClusterOptions(), Resources()).submit(JOB)
    assert not cluster.requests


def test_listening_goes_on_while_the_cluster_is_away_but_not_for_ever(cluster, monkeypatch):
    backend = Kubernetes(OPTIONS, Resources())
    backend.submit(JOB)
    cluster.status("mine", **DONE)
    cluster.add_pod("mine-x", "Succeeded", with_times("one"), job_name="mine")
    cluster.answers = [500, 0, 0, 503]
    assert list(backend.logs("mine")) == ["one"]
    monkeypatch.setattr(kubernetes, "PATIENCE", 0.2)
    cluster.answers = [500] * 1000
    started = time.monotonic()
    with pytest.raises(Unreachable):
        list(backend.logs("mine"))
    assert 0.2 < time.monotonic() - started < 10


def test_a_pending_job_says_what_its_pods_wait_for(cluster):
    backend = Kubernetes(OPTIONS, Resources())
    backend.submit(JOB)
    facts = {"jobDeploymentStatus": "Initializing", "rayClusterName": "mine-abc"}
    cluster.status("mine", **facts)
    cluster.add_pod("head", "Running", b"", **{"ray.io/cluster": "mine-abc"})
    pod = cluster.add_pod("worker", "Pending", b"", **{"ray.io/cluster": "mine-abc"})
    lacking = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    pod["status"]["conditions"] = [{"reason": "Unschedulable", "message": lacking}]
    told = backend.state("mine").told
    assert told == f"its cluster is being made; 1 of 2 pods are up; worker: {lacking}"
    pull = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    pod["status"] = {"phase": "Pending", "containerStatuses": [pull]}
    assert backend.state("mine").told.endswith("1 of 2 pods are up; worker: no such image")
    cluster.answers = [None, 403]  # the RayJob, but not its pods
    assert backend.state("mine").told == "its cluster is being made"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, "pending"),
        ({"jobDeploymentStatus": "Initializing"}, "pending"),
        ({"jobDeploymentStatus": "Suspended"}, "pending"),
        ({"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}, "pending"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, "pending"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, "running"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "FAILED"}, "running"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "succeeded"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "stopped"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "FAILED"}, "failed"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED"}, "failed"),
        ({"jobDeploymentStatus": "Failed", "jobStatus": "SUCCEEDED"}, "failed"),
        ({"jobDeploymentStatus": "SomethingNew"}, "pending"),
    ],
)
def test_a_ray_jobs_status_is_one_of_five(status, expected):
    assert state_of({"status": status}).status == expected


def test_a_failure_says_why():
    status = {"jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": "exit code 1"}
    assert state_of({"status": status}) == JobState("failed", "AppFailed: exit code 1")


def test_without_client_and_kubectl_both_are_named(monkeypatch):
    without_client(monkeypatch)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"dfkd\[kubernetes\].*kubectl"):
        Kubernetes(OPTIONS)


def test_without_a_configured_cluster_it_is_said_where_one_is_looked_for(tmp_path, monkeypatch):
    pytest.importorskip("kubernetes")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=r"\$KUBECONFIG"):
        Kubernetes(OPTIONS)


@pytest.mark.parametrize(
    ("told", "kind", "says"),
    [
        ('Error from server (AlreadyExists): rayjobs.ray.io "a" already exists', Exists, "exists"),
        ("error: current-context must exist in order to minify", ConfigError, "KUBECONFIG"),
        ('error: no matches for kind "RayJob" in version "ray.io/v1"', ConfigError, "KubeRay"),
        ("Error from server (Forbidden): rayjobs is forbidden", ConfigError, "let you do that"),
        ("Unable to connect to the server: dial tcp: i/o timeout", Unreachable, "i/o timeout"),
        ('Error: unknown field "spec.rayClusterSpec.authOptions"', ConfigError, "authOptions"),
        ("", ConfigError, "says nothing"),
    ],
)
def test_what_kubectl_says_becomes_an_error_of_ours(told, kind, says):
    error = explained(told)
    assert type(error) is kind and says in str(error)


def test_lines_come_whole_whatever_the_pieces():
    pieces = [b"one\ntw", b"o\n", b"", b"thr", b"ee\nfour"]
    assert list(lines_of(iter(pieces))) == ["one", "two", "three"]
