import pytest

from dfkd.orchestrator.carried import LARGEST, carry
from dfkd.orchestrator.cluster_options import ClusterOptions

OPTIONS = ClusterOptions(image="dfkd:1", claim=("data:/data",))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.pt").write_bytes(b"")
    (tmp_path / "images").mkdir()
    return tmp_path


def test_a_task_on_storage_or_on_a_claim_is_read_there():
    for task in ("s3://bucket/mine.yaml", "/data/mine.yaml"):
        found = carry((task,), OPTIONS)
        assert found.arguments == (task,) and found.task is None and not found.problems


def test_a_shipped_task_stays_a_name():
    found = carry(("digits", "--trials", "8"), OPTIONS)
    assert found.arguments == ("digits", "--trials", "8") and found.task is None
    assert not found.problems


def test_a_tasks_own_file_travels_and_is_found_where_it_is_mounted(here):
    (here / "mine.yaml").write_text("task: mine\ndata: digits\n")
    found = carry(("mine.yaml", "--seed", "1"), OPTIONS)
    assert found.arguments == ("/etc/dfkd/task.yaml", "--seed", "1")
    assert found.task == "task: mine\ndata: digits\n" and not found.problems


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("data: images", "images"),
        ("embeddings: texts.safetensors", "texts.safetensors"),
        ("teacher: {network: resnet18, weights: t.pt}", "t.pt"),
        ("teachers: {other: {weights: t.pt}}", "t.pt"),
    ],
)
def test_files_beside_a_task_do_not_travel(here, text, name):
    (here / "mine.yaml").write_text(text)
    (problem,) = carry(("mine.yaml",), OPTIONS).problems
    assert f"names {name} beside it, which stays here: put it into the image" in problem


def test_a_task_may_name_what_lies_on_a_claim_or_in_the_image(here):
    (here / "mine.yaml").write_text("data: /data/images\nteacher: {weights: /opt/teacher.pt}\n")
    assert not carry(("mine.yaml",), OPTIONS).problems


def test_a_task_that_is_not_there_or_too_large_is_refused(here):
    assert "task file gone.yaml: " in carry(("gone.yaml",), OPTIONS).problems[0]
    (here / "mine.yaml").write_text("#" * (LARGEST + 1))
    assert "at most 900,000 travel" in carry(("mine.yaml",), OPTIONS).problems[0]


@pytest.mark.parametrize(
    "words",
    [
        ("--teacher", "teacher.pt"),
        ("--teacher=wrn-16-1:teacher.pt",),
        ("--teacher", "gone.pt"),
        ("--data", "images"),
        ("--data=./gone",),
        ("--from-pool", "runs/mine"),
    ],
)
def test_files_of_this_machine_are_refused(here, words):
    (problem,) = carry(("digits", *words), OPTIONS).problems
    assert "lies on this machine, where pods cannot see it" in problem and "--claim" in problem


def test_an_absolute_path_is_refused_if_it_is_here(here):
    assert carry(("digits", "--data", str(here / "images")), OPTIONS).problems
    assert not carry(("digits", "--data", str(here / "in-the-image")), OPTIONS).problems


@pytest.mark.parametrize(
    "words",
    [
        ("--teacher", "torchvision/resnet34:IMAGENET1K_V1"),
        ("--teacher", "plain"),
        ("--teacher", "wrn-16-1:s3://bucket/teacher.pt"),
        ("--data", "mnist"),
        ("--data", "/data/images"),
        ("--from-pool", "mine"),
        ("--from-pool", "s3://bucket/runs/mine/pools"),
        ("--export-dir", "/data/best"),
    ],
)
def test_names_uris_and_paths_on_a_claim_are_taken(here, words):
    assert not carry(("digits", *words), OPTIONS).problems


def test_an_export_that_would_go_with_its_pod_is_refused():
    (problem,) = carry(("digits", "--export-dir", "best"), OPTIONS).problems
    assert "would go with its pod" in problem
