import subprocess
import sys
from dataclasses import fields

import pytest

from dfkd.orchestrator.carried import MOUNT
from dfkd.orchestrator.cluster_options import TAKEN, ClusterOptions
from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.jobs import Job
from dfkd.orchestrator.options import SweepOptions
from dfkd.orchestrator.pods import HOME, SPILL

JOB = Job(name="mine", storage="s3://bucket/runs", arguments=("digits",))
GPU = Resources(gpus_per_worker=1)


def told(need=GPU, job=JOB, **options) -> str:
    return "\n".join(ClusterOptions(**{"image": "dfkd:1", **options}).problems(job, need))


def test_an_image_and_a_storage_are_all_that_has_to_be_said():
    assert told() == "" and told(Resources()) == "" and told(Resources(workers=4)) == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"image": ""}, "--image is the address of an image"),
        ({"image": "two words"}, "got 'two words'"),
        ({"object_store": "64Gi"}, "--object-store 64Gi exceeds --worker-memory 32Gi"),
        ({"object_store": "9Gi"}, "--object-store 9Gi lies in --shm and is larger: 8Gi"),
        ({"shm": "32Gi"}, "--shm 32Gi is part of --worker-memory 32Gi"),
        ({"shm": "much"}, "--shm must be an amount of memory as 500M or 2GiB, got 'much'"),
        ({"head_memory": "1Gi"}, "--head-memory must be at least 4Gi, got 1Gi"),
        ({"workers_min": 5}, "--workers-min 5 is above --workers-max 4"),
        ({"workers_min": -1}, "--workers-min must be at least 0, got -1"),
        ({"workers_min": 1, "autoscale": False}, "--fixed means --workers-max 4 pods all along"),
        ({"workers_max": 0}, "--workers-max must be at least 1, got 0"),
        ({"ttl": -1}, "--ttl must be at least 0, got -1"),
        ({"backoff": -1}, "--backoff must be at least 0, got -1"),
        ({"queue": "team"}, "--queue needs --fixed"),
        ({"queue": "Team_A", "autoscale": False}, "--queue is the name of an object"),
        ({"gpus": 0}, "worker pods have no GPU: give them some with --gpus"),
        ({"namespace": "a b"}, "--namespace is the name of an object"),
        ({"spill": "My Disk"}, "--spill, where it is no size, is the name of an object"),
        ({"claim": ("data",)}, "--claim must be NAME:/PATH, got 'data'"),
        ({"claim": ("data:/tmp/",)}, "--claim data:/tmp/ would hide what pods keep"),
        ({"claim": ("data:/home",)}, "--claim data:/home would hide what pods keep"),
        ({"claim": ("a:/data", "b:/data/")}, "--claim b:/data/: another claim is mounted there"),
        ({"gpu_type": "NVIDIA L4"}, "--gpu-type is a label's value, or LABEL=VALUE"),
        ({"var": ("novalue",)}, "--var must be KEY=VALUE"),
        ({"var": ("RAY_AUTH_MODE=disabled",)}, "--var RAY_AUTH_MODE is for dfkd and KubeRay"),
        ({"redis": "redis://:pw@host:6379"}, "--redis must be HOST:PORT"),
        ({"redis_secret": "a/b"}, "--redis-secret without --redis"),
        ({"redis": "redis:6379", "redis_secret": "a"}, "--redis-secret must be NAME/KEY"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do_instead(options, says):
    assert says in told(**options)


@pytest.mark.parametrize(
    ("need", "options", "says"),
    [
        (Resources(), {"gpus": 1}, "--gpus 1 would idle"),
        (Resources(), {"gpu_type": "NVIDIA-L4"}, "trials that use no GPU: add --gpus-per-worker"),
        (Resources(gpus_per_worker=2), {"gpus": 1}, "no worker pod of 8 CPU and 1 GPU holds it"),
        (Resources(cpus_per_worker=9), {}, "a trial's worker takes 9 CPU and 0 GPU"),
        (Resources(workers=5, gpus_per_worker=1), {}, "a trial takes 5 worker pods"),
    ],
)
def test_a_cluster_that_no_trial_fits_on_is_refused(need, options, says):
    assert says in told(need, **options)


@pytest.mark.parametrize(
    "name", ["Mine", "1st", "a_b", "-a", "a-", "mine.2", "ü", "a" * 48, "", "a\n"]
)
def test_a_name_that_kuberay_would_refuse_is_refused_first(name):
    job = Job(name=name, storage=JOB.storage, arguments=JOB.arguments)
    assert "--name on Kubernetes has small letters" in told(job=job)


@pytest.mark.parametrize("storage", ["dfkd-runs", "/tmp/runs", "file:///tmp/runs", "/runs2"])
def test_storage_that_goes_with_its_pod_is_refused(storage):
    job = Job(name="mine", storage=storage, arguments=JOB.arguments)
    assert f"--storage {storage} would go with its pod" in told(job=job, claim=("runs:/runs",))


@pytest.mark.parametrize("storage", ["gs://bucket/x", "/runs", "/runs/mine", "file:///runs/mine"])
def test_storage_that_outlives_its_pod_is_taken(storage):
    job = Job(name="mine", storage=storage, arguments=JOB.arguments)
    assert told(job=job, claim=("runs:/runs",)) == ""


@pytest.mark.parametrize(
    "key", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "password", "DB_PASSWD"]
)
def test_a_secret_among_the_variables_is_refused_and_not_repeated(key):
    found = told(var=(f"{key}=hunter2",))
    assert "with --secret" in found and key in found and "hunter2" not in found


def test_a_variable_that_only_sounds_like_a_secret_is_taken():
    harmless = ("TOKENIZERS_PARALLELISM=false", "AWS_SHARED_CREDENTIALS_FILE=/x", "AWS_REGION=x")
    assert told(var=harmless) == ""


def test_a_password_in_a_uri_is_refused_and_not_repeated():
    uri = "s3://me:hunter2@bucket/runs"
    job = Job(name="mine", storage=uri, arguments=("digits", "--from-pool", uri))
    found = told(job=job, var=(f"ENDPOINT={uri}",))
    assert "a URI holds a password" in found and "--var ENDPOINT" in found
    assert "hunter2" not in found


def test_a_secrets_content_in_place_of_its_name_is_refused_and_not_repeated():
    found = told(secret=("hunter2/HUNTER=",))
    assert "a Secret's name and never its content" in found and "hunter2" not in found


def test_all_problems_are_told_at_once():
    found = told(image="", shm="64Gi", workers_min=9, gpus=0, ttl=-1)
    assert len(found.splitlines()) == 5


def test_half_a_gpu_for_each_worker_means_two_workers_on_a_pod_of_one():
    options = ClusterOptions(image="dfkd:1", workers_max=3)
    need = Resources(gpus_per_worker=0.5)
    assert options.gpus_per_pod(need) == 1 and options.workers_per_pod(need) == 2


def test_as_many_pods_are_kept_as_one_trial_takes_unless_it_is_said_otherwise():
    need = Resources(workers=5)
    assert ClusterOptions(worker_cpus=2).least_pods(need) == 3
    assert ClusterOptions(worker_cpus=2, workers_min=0).least_pods(need) == 0
    assert ClusterOptions(worker_cpus=2, autoscale=False).least_pods(need) == 4


def test_no_claim_may_lie_where_pods_mount_something_of_their_own():
    assert set(TAKEN) == {"/tmp", HOME, "/dev/shm", SPILL, MOUNT}


def test_reading_the_options_imports_nothing_heavy():
    program = "import sys, dfkd.orchestrator.cluster_options; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not {"torch", "ray", "yaml", "kubernetes"} & set(done.stdout.split()) and done.stdout


def test_every_option_teaches_in_one_line_and_none_is_a_sweeps_own():
    listed = fields(ClusterOptions)
    assert all(0 < len(one.metadata["help"]) <= 100 for one in listed)
    assert not {one.name for one in listed} & {one.name for one in fields(SweepOptions)}
