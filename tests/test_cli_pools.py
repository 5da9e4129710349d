"""`dfkd pool`."""

import pytest
import torch
from command_line import COMMANDS, as_json, complaint, told
from kept_pools import keep_pool, shard
from PIL import Image

from dfkd.methods.memory import Shard
from dfkd.orchestrator.storage import Folder

pytest_plugins = ["small_task_fixtures", "command_line"]
pytestmark = pytest.mark.usefixtures("dfkd_cache", "no_ray")


@pytest.fixture
def pools(tmp_path):
    """A storage folder with the sweeps `kept`, which has a pool of two files, and `plain`."""
    folder = Folder.of(str(tmp_path / "runs"))
    for name in ("kept", "plain"):
        folder.child(name).write_json("sweep.json", {})
    keep_pool(folder.child("kept", "pools"), shard(), shard(1, 4))
    return folder.uri


def test_a_pools_files_are_listed_with_their_classes(pools):
    shown = told("pool", "ls", "kept", "--storage", pools)
    assert "13 images in 2 files" in shown
    assert "top: 5, middle: 4, bottom/low: 4" in shown
    rows = [line.split("│")[2:7] for line in shown.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells == [["t000", "nayer", str(e), "1x6x6", n] for e, n in ((1, "9"), (2, "4"))]


def test_of_many_classes_the_extremes_are_told(tmp_path):
    classes = tuple(f"class{number}" for number in range(30))
    one = Shard(torch.zeros(33, 1, 2, 2, dtype=torch.uint8), torch.arange(33).clamp(max=29))
    keep_pool(Folder.of(str(tmp_path)), one, classes=classes)
    shown = told("pool", "ls", tmp_path)
    assert "each of 30 classes 1.1 on average, from 1 (class0) to 4 (class29)" in shown


def test_a_damaged_file_is_listed_with_the_others(pools):
    folder = Folder.of(pools).child("kept", "pools")
    folder.write("bad.arrow", b"bad")
    shown = told("pool", "ls", "kept", "--storage", pools)
    assert "bad.arrow is damaged" in shown
    assert "13 images in 3 files" in shown


def test_a_pools_files_can_be_had_as_json(pools):
    facts = as_json(told("pool", "ls", "kept", "--storage", pools, "--json"))
    assert [(f["images"], f["per_class"], f["about"]["epoch"]) for f in facts] == [
        (9, [3, 3, 3], 1),
        (4, [2, 1, 1], 2),
    ]


def test_a_pool_is_drawn(pools, tmp_path):
    to = tmp_path / "kept.png"
    shown = told("pool", "show", "kept", "--storage", pools, "--to", to, "--per-class", 3)
    assert str(to) in shown
    with Image.open(to) as image:
        assert image.height > 3 * 32


@pytest.mark.parametrize(
    ("options", "file"), [([], "bottom_low/000002.png"), (["--format", "webdataset"], "000000.tar")]
)
def test_a_pool_is_exported(pools, tmp_path, options, file):
    shown = told("pool", "export", "kept", "--storage", pools, "--to", tmp_path / "to", *options)
    assert f"wrote 13 images to {tmp_path / 'to'}" in shown
    assert "pool kept: 50 % exported" in shown
    assert (tmp_path / "to" / file).is_file()


@pytest.mark.parametrize("verb", ["ls", "show", "export --to new"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kpet", "no sweep 'kpet'. Did you mean 'kept'?"),
        ("plain", "sweep plain kept no pool; a sweep run with --keep-pool keeps one"),
    ],
)
def test_what_has_no_pool_is_shown(pools, monkeypatch, tmp_path, verb, name, words):
    monkeypatch.chdir(tmp_path)
    command, *options = verb.split()
    assert words in complaint("pool", command, name, *options, "--storage", pools)
    assert not (tmp_path / "new").exists()


def test_a_pool_is_not_exported_to_a_folder_with_something_in_it(pools, tmp_path):
    said = complaint("pool", "export", "kept", "--storage", pools, "--to", tmp_path)
    assert f"{tmp_path} is not empty; choose another folder with --to" in said


def test_every_command_for_pools_has_an_example():
    verbs = [name for name in COMMANDS if name.startswith("pool ")]
    assert verbs == ["pool export", "pool ls", "pool show"]
    assert all(f"example: dfkd {verb} mine" in told(*verb.split(), "--help") for verb in verbs)
