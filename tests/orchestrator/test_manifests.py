import importlib.metadata

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kuberay_check import problems_of

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.annotated_yaml import annotated
from dfkd.orchestrator.cluster_options import ClusterOptions
from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.jobs import Job
from dfkd.orchestrator.manifests import as_yaml, manifests

ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
LINES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
TYPES = st.sampled_from(["", "NVIDIA-L4", "cloud.google.com/gke-accelerator=nvidia-l4"])
NAMES = st.sampled_from(["", "team-a"])
SIZES = st.sampled_from(["1Gi", "8Gi", "9000M", "32Gi", "1TB"])
CLAIMS = ("data:/data", "runs:/runs/")

NEEDS = st.builds(
    Resources,
    workers=st.integers(1, 3),
    cpus_per_worker=st.sampled_from([0.5, 1.0, 3.0]),
    gpus_per_worker=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
JOBS = st.builds(
    Job,
    name=st.from_regex(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", fullmatch=True),
    storage=st.sampled_from(["s3://bucket/runs?region=x&scheme=http", "gs://b", "/runs/all"]),
    arguments=st.lists(LINES, max_size=2).map(lambda words: ("digits", "--set", *words)),
)
HARMLESS = {  # whatever the others are
    "image": st.sampled_from(["dfkd:1", "example.com:5000/dfkd@sha256:" + "0" * 64]),
    "spill": st.sampled_from(["20Gi", "fast-disk", "1TB"]),
    "head_cpus": st.integers(1, 8),
    "secret": st.sets(st.sampled_from(["storage", "tracking"])).map(tuple),
    "var": st.lists(LINES.map(lambda text: f"NOTE={text}"), max_size=1).map(tuple),
    "service_account": NAMES,
    "namespace": NAMES,
    "ttl": st.integers(0, 10**6),
    "backoff": st.integers(0, 9),
}
ANYTHING = st.builds(  # what may be asked, most of which is refused
    ClusterOptions,
    **HARMLESS,
    gpus=st.none() | st.integers(0, 8),
    gpu_type=TYPES,
    workers_min=st.none() | st.integers(0, 4),
    workers_max=st.integers(1, 64),
    autoscale=st.booleans(),
    worker_cpus=st.integers(1, 64),
    worker_memory=SIZES,
    shm=SIZES,
    object_store=st.just("") | SIZES,
    head_memory=SIZES,
    claim=st.sampled_from([(), CLAIMS[:1], CLAIMS, ("a:/runs", "b:/runs/")]),
    queue=NAMES,
    redis=st.sampled_from(["", "redis:6379"]),
    redis_secret=st.sampled_from(["", "redis/password"]),
)


@st.composite
def submissions(draw: st.DrawFn) -> tuple[Job, ClusterOptions, Resources]:
    """A job, options and needs that go together."""
    need = draw(NEEDS)
    options = {name: draw(values) for name, values in HARMLESS.items()}
    options["autoscale"] = autoscale = draw(st.booleans())
    options["workers_max"] = draw(st.integers(6, 64))
    options["workers_min"] = draw(st.none() | st.integers(0, 6)) if autoscale else None
    options["queue"] = "" if autoscale else draw(NAMES)
    options["gpus"] = draw(st.none() | st.integers(2, 8)) if need.gpus_per_worker else None
    options["gpu_type"] = draw(TYPES) if need.gpus_per_worker else ""
    options["worker_cpus"] = draw(st.integers(4, 64))
    options["worker_memory"] = draw(st.sampled_from(["32Gi", "100000M", "1TB"]))
    options["head_memory"] = draw(st.sampled_from(["4Gi", "9000M"]))
    options["shm"] = draw(st.sampled_from(["1Gi", "8Gi", "9000M"]))
    options["object_store"] = draw(st.sampled_from(["", "500M", "1Gi"]))
    options["redis"], options["redis_secret"] = draw(
        st.sampled_from([("", ""), ("redis:6379", ""), ("redis:6379", "redis/password")])
    )
    return draw(JOBS), ClusterOptions(**options, claim=CLAIMS), need


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

WORKING = ClusterOptions(image="dfkd:1", secret=("storage",))
JOB = Job(name="mine", storage="s3://bucket/runs", arguments=("digits", "--trials", "8"))
GPU = Resources(gpus_per_worker=1)


def check(made: list[dict]) -> None:
    assert [problem for one in made for problem in problems_of(one)] == []
    assert list(yaml.load_all(as_yaml(made), LOADER)) == made


@settings(max_examples=60)
@given(submissions())
def test_what_goes_together_makes_what_kuberay_takes(submission):
    check(manifests(*submission))


@settings(max_examples=100)
@given(JOBS, ANYTHING, NEEDS)
def test_anything_else_is_refused_or_makes_what_kuberay_takes(job, options, need):
    try:
        made = manifests(job, options, need)
    except ConfigError:
        return
    check(made)


def test_the_driver_gets_the_words_and_where_its_sweep_lies():
    (made,) = manifests(JOB, WORKING, GPU)
    assert made["spec"]["entrypoint"] == (
        "dfkd sweep digits --trials 8 --name mine --storage s3://bucket/runs --address auto --json"
    )


@pytest.mark.parametrize("word", ["--name", "--storage=x", "--address", "--json"])
def test_what_dfkd_itself_says_to_the_driver_cannot_be_said_twice(word):
    job = Job(name="mine", storage="s3://b", arguments=("digits", word))
    with pytest.raises(ConfigError, match="is dfkd's to set on a cluster"):
        manifests(job, WORKING, GPU)


def test_a_queue_suspends_the_job_until_kueue_lets_it_begin():
    options = ClusterOptions(image="dfkd:1", queue="team-a", autoscale=False)
    (made,) = manifests(JOB, options, GPU)
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert made["spec"]["suspend"] and made["spec"]["shutdownAfterJobFinishes"]


def test_a_fixed_cluster_has_all_its_pods_from_the_beginning():
    options = ClusterOptions(image="dfkd:1", workers_max=6, autoscale=False)
    (made,) = manifests(JOB, options, GPU)
    (group,) = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 6
    assert "autoscalerOptions" not in made["spec"]["rayClusterSpec"]


def test_the_rays_of_the_cluster_and_of_this_machine_are_the_same():
    (made,) = manifests(JOB, WORKING, GPU)
    assert made["spec"]["rayClusterSpec"]["rayVersion"] == importlib.metadata.version("ray")


def test_secrets_are_named_and_nothing_of_this_machines_environment_is_copied(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    options = ClusterOptions(
        image="dfkd:1", secret=("storage",), redis="redis:6379", redis_secret="redis/password"
    )
    made = manifests(JOB, options, GPU)
    text = as_yaml(made)
    assert "hunter2" not in text
    cluster = made[0]["spec"]["rayClusterSpec"]
    password = cluster["gcsFaultToleranceOptions"]["redisPassword"]
    assert password == {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (box,) = group["template"]["spec"]["containers"]
        assert box["envFrom"] == [{"secretRef": {"name": "storage"}}]


def test_a_tasks_file_is_a_config_map_that_the_head_mounts(tmp_path):
    text = "task: mine\n# a remark\nclasses: [é, '1']\n"
    (tmp_path / "mine.yaml").write_text(text)
    job = Job(name="mine", storage="s3://b", arguments=(str(tmp_path / "mine.yaml"),))
    made, config = manifests(job, ClusterOptions(image="dfkd:1", namespace="team"), GPU)
    assert config["data"] == {"task.yaml": text}
    assert made["metadata"]["namespace"] == config["metadata"]["namespace"] == "team"
    assert "dfkd sweep /etc/dfkd/task.yaml " in made["spec"]["entrypoint"]
    pod = made["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "task", "configMap": {"name": config["metadata"]["name"]}} in pod["volumes"]
    assert {"name": "task", "mountPath": "/etc/dfkd"} in pod["containers"][0]["volumeMounts"]
    assert list(yaml.safe_load_all(as_yaml([made, config]))) == [made, config]


def test_problems_of_options_and_of_words_are_told_together():
    job = Job(name="Mine", storage="s3://b", arguments=("gone.yaml", "--data", "gone"))
    with pytest.raises(ConfigError) as raised:
        manifests(job, ClusterOptions(), GPU)
    assert len(raised.value.problems) == 4


def test_a_note_stands_above_the_first_key_of_its_path():
    text = annotated({"a": [{"b": 1}, {"b": 2}], "c": "x\ny\n"}, {"a.b": "why", "c": "because"})
    assert text == "a:\n  # why\n  - b: 1\n  - b: 2\n# because\nc: |\n  x\n  y\n"


@given(st.dictionaries(ANY.filter(str.isalnum), ANY | st.lists(ANY) | st.integers()))
def test_notes_change_no_value(value):
    assert yaml.safe_load(annotated(value, dict.fromkeys(value, "a note"))) == value
