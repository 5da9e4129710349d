"""The files in deploy/: templates are what dfkd prints, examples render, the image is sane."""

import fnmatch
import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from kuberay_check import problems_of

from dfkd.orchestrator.cluster_options import ClusterOptions
from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.jobs import Job
from dfkd.orchestrator.manifests import as_yaml, manifests
from dfkd.orchestrator.options import SweepOptions, as_words, flags
from dfkd.orchestrator.pods import HOME, USER

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kustomize" / "base"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMMANDS = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE))

SWEEP = SweepOptions(trials=64, gpus_per_worker=1.0)
TEMPLATE = ClusterOptions(  # as deploy/README.md has it
    image="registry.example.com/dfkd:0.1.0",
    workers_max=8,
    secret=("dfkd-storage",),
    var=("AWS_REGION=eu-central-1",),
)
JOB = Job(
    name="imagenet", storage="s3://my-bucket/dfkd-runs", arguments=("imagenet", *as_words(SWEEP))
)


def written(page: Path) -> list[list[str]]:
    """The `dfkd submit` command lines of a page, in words."""
    text = re.sub(r"\\\n", " ", page.read_text())
    return [shlex.split(line) for line in re.findall(r"^    (dfkd submit .*)$", text, re.MULTILINE)]


def test_the_commands_in_the_pages_are_the_one_that_makes_the_template():
    options = {flags(one).partition("/")[0]: one for one in fields(ClusterOptions)}
    (command,), (other,) = written(DEPLOY / "README.md"), written(ROOT / "docs" / "kubernetes.md")
    assert command == other
    dfkd, submit, task, *words, dry_run = command
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert (dfkd, submit, task, dry_run) == ("dfkd", "submit", "imagenet", "--dry-run")
    assert (given.pop("--name"), given.pop("--storage")) == (JOB.name, JOB.storage)
    wanted = ((flag, getattr(TEMPLATE, one.name), one.default) for flag, one in options.items())
    cluster = {flag: value for flag, value, default in wanted if value != default}
    as_text = {f: str(v[0] if isinstance(v, tuple) else v) for f, v in cluster.items()}
    sweep = {"--trials": "64", "--gpus-per-worker": "1"}
    assert given == sweep | as_text
    assert [float(word) for word in as_words(SWEEP)[1::2]] == [float(v) for v in sweep.values()]


def test_the_template_is_what_dfkd_prints():
    assert (BASE / "rayjob.yaml").read_text() == as_yaml(
        manifests(JOB, TEMPLATE, Resources(gpus_per_worker=1.0))
    )


def test_the_kustomize_example_renders_and_is_valid():
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl on PATH")
    command = ["kubectl", "kustomize", str(DEPLOY / "kustomize" / "example")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    made = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    job = made["RayJob"]
    assert problems_of(job) == []
    assert {one["metadata"]["namespace"] for one in made.values()} == {"vision"}
    name = job["metadata"]["name"]
    assert name == "imagenet-vision" and f"--name {name} " in job["spec"]["entrypoint"]
    assert set(re.findall(r"image: (.*)", done.stdout)) == {
        "registry.example.com/vision/dfkd:0.1.0"
    }
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["maxReplicas"] == 16 and "vision-storage" in done.stdout


def test_the_network_policy_selects_the_pods_of_sweeps():
    policy = yaml.safe_load((BASE / "network-policy.yaml").read_text())
    (selected,) = policy["spec"]["podSelector"]["matchExpressions"]
    job = yaml.safe_load((BASE / "rayjob.yaml").read_text())["spec"]
    cluster = job["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = [*(group["template"] for group in groups), job["submitterPodTemplate"]]
    assert all(selected["key"] in made["metadata"]["labels"] for made in templates)


def instructions(word: str) -> list[str]:
    return re.findall(rf"^{word} (.*)$", COMMANDS, re.MULTILINE)


def test_the_image_runs_as_the_user_that_pods_run_as_and_at_home_where_they_mount():
    assert instructions("USER") == [f"{USER}:{USER}"]
    assert f"useradd --uid {USER} " in COMMANDS and f"HOME={HOME} " in COMMANDS
    assert COMMANDS.index("USER ") > COMMANDS.rindex("pip install")


def test_the_image_has_versions_of_constraints_and_a_python_that_dfkd_takes():
    assert all("-c /constraints.txt" in line for line in re.findall(r"pip install[^;]*", COMMANDS))
    (python,) = re.findall(r"^ARG PYTHON=(3\.\d+)$", COMMANDS, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    assert int(low) <= int(python.partition(".")[2]) < int(high)
    assert "jobs" in project["optional-dependencies"] and "[jobs]" in COMMANDS


def test_nothing_secret_and_no_address_of_packages_is_built_into_the_image():
    assert not instructions("ADD") and not re.search(r"https?://", COMMANDS)
    names = re.findall(r"^(?:ARG|ENV) (\w+)", COMMANDS, re.MULTILINE)
    assert not [name for name in names if re.search("TOKEN|SECRET|PASSWORD|KEY", name)]
    assert "--mount=type=secret" in COMMANDS


def test_the_build_sees_what_the_wheel_is_made_of_and_no_more():
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in lines
    taken = [line[1:] for line in lines if line.startswith("!")]
    assert all((ROOT / name).exists() for name in taken)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.split(".")[1] for name in settings["tool"]["setuptools"]["packages"][1:]}
    needed = packages | {"pyproject.toml", "constraints.txt", "__init__.py", "cli.py", "py.typed"}
    needed |= {settings["project"]["readme"], *settings["project"]["license-files"]}
    assert needed == set(taken)
    assert not fnmatch.filter(taken, "*.git*")


@pytest.mark.parametrize(("variant", "status"), [("gpu", 0), ("cpu", 0), ("tpu", 2)])
def test_the_images_install_command_takes_both_variants(tmp_path, variant, status):
    (script,) = [line for line in instructions("RUN") if "case" in line]
    script = re.sub(r"--mount=\S+", "", script).replace("/dist/", f"{tmp_path}/")
    (tmp_path / "dfkd-1-py3-none-any.whl").touch()
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$*" >> "$0.log"\n')
    (tmp_path / "pip").chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    given = {"PATH": path, "VARIANT": variant, "TORCH_INDEX": "there"}
    done = subprocess.run(["sh", "-c", script], env=given, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    if status:
        assert f"VARIANT is gpu or cpu, got '{variant}'" in done.stderr
        return
    *torch, dfkd = (tmp_path / "pip.log").read_text().splitlines()
    assert dfkd.endswith("dfkd-1-py3-none-any.whl[jobs]")
    assert [line.split()[-2:] for line in torch] == [["torch", "torchvision"]] * (variant == "cpu")


def test_without_the_address_of_its_wheels_the_cpu_image_is_refused():
    (script,) = [line for line in instructions("RUN") if "case" in line]
    script = re.sub(r"--mount=\S+", "", script)
    done = subprocess.run(
        ["sh", "-c", script], env={"VARIANT": "cpu"}, capture_output=True, text=True
    )
    assert done.returncode != 0 and "is the address of the CPU wheels" in done.stderr
