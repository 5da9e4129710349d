"""The packaging rules that no tool checks for us."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import dfkd
from dfkd.orchestrator import wheels

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("methods", "orchestrator", "search_spaces")


def test_dfkd_is_this_checkout():
    assert Path(dfkd.__file__).resolve().parent == ROOT, "run: make test, or pip install -e ."


def test_the_root_holds_no_stray_module():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "cli.py"}


def test_the_tests_are_no_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_subpackage_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    inits = [init for name in PACKAGES for init in (ROOT / name).rglob("__init__.py")]
    found = {".".join(("dfkd", *init.parent.relative_to(ROOT).parts)) for init in inits}
    assert found | {"dfkd"} == set(settings["packages"])


def test_the_two_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert dfkd.__version__ == project["version"]


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory) -> Path:
    """The checkout as a clone would hold it, in a folder of another name."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip(f"git cannot list the checkout's files: {listing.stderr.strip()}")
    copy = tmp_path_factory.mktemp("clone") / "another name"
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():  # a deleted file stays listed until the next commit
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(clean_copy, tmp_path_factory) -> Path:
    return build_wheel(clean_copy, tmp_path_factory.mktemp("dist"))


def build_wheel(source: Path, folder: Path) -> Path:
    """Build with this environment's setuptools, so that no network is needed."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, source]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(clean_copy, wheel):
    files = [path for name in PACKAGES for path in (clean_copy / name).rglob("*")]
    shipped = [path for path in files if path.suffix in {".py", ".yaml", ".safetensors"}]
    shipped += [clean_copy / name for name in ("__init__.py", "cli.py", "py.typed")]
    expected = {f"dfkd/{path.relative_to(clean_copy).as_posix()}" for path in shipped}
    found = {name for name in names_in(wheel) if ".dist-info/" not in name}
    assert found == expected


def test_what_travels_to_a_cluster_is_what_the_wheel_holds(wheel):
    found = {name for name in names_in(wheel) if ".dist-info/" not in name}
    assert {place for place, _ in wheels.files()} == found


def test_what_travels_to_a_cluster_can_be_imported_and_knows_its_version(tmp_path):
    """From its two folders, each of which may lie somewhere else."""
    wheels.unpack(tmp_path)
    program = "import dfkd.cli, importlib.metadata as m; print(dfkd.__file__, m.version('dfkd'))"
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == [f"{tmp_path}/dfkd/__init__.py", dfkd.__version__], done.stderr


def test_the_wheel_carries_the_license_and_the_command(wheel):
    name, version, *_ = wheel.name.split("-")
    with zipfile.ZipFile(wheel) as archive:
        license_text = archive.read(f"{name}-{version}.dist-info/licenses/LICENSE").decode()
        commands = archive.read(f"{name}-{version}.dist-info/entry_points.txt").decode()
    assert "Apache License" in license_text
    assert "dfkd = dfkd.cli:main" in commands


def test_the_same_files_give_the_same_wheel_elsewhere(clean_copy, wheel, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(clean_copy, elsewhere, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    for path in elsewhere.rglob("*"):
        os.utime(path)
    again = build_wheel(elsewhere, tmp_path)
    assert again.read_bytes() == wheel.read_bytes()
