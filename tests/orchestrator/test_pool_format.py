"""What docs/pool-format.md says, executed, most of it where dfkd cannot be imported."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest
from kept_pools import ABOUT, keep_pool, shard

from dfkd.orchestrator import pool_files
from dfkd.orchestrator.pool_files import Provenance, keep, read
from dfkd.orchestrator.storage import Folder

PAGE = (Path(__file__).parents[2] / "docs" / "pool-format.md").read_text()
WITH_PYARROW, WITH_PANDAS, WITH_DFKD, DIGEST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def beside(tmp_path):
    """A folder with one in it, `pools`, of one file of two shards."""
    keep(Folder.of(str(tmp_path / "pools")), [shard(), shard(1, 4)], [0.5, 1.5], ABOUT)
    return tmp_path


def printed(example, folder):
    """What the example prints in a Python that has no dfkd."""
    code = f"import sys\nsys.modules['dfkd'] = None\n{example}"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_files_can_be_read_with_pyarrow_alone_and_without_a_copy(beside):
    example = WITH_PYARROW + "    assert not images.flags.owndata and not images.flags.writeable\n"
    lines = printed(example, beside).splitlines()
    assert lines == ["(9, 1, 6, 6) top 0.5", "(4, 1, 6, 6) top 1.5"]


def test_the_files_can_be_read_with_pandas(beside):
    example = WITH_PANDAS + "print(images.tobytes().hex())\n"
    shape, *means, pixels = printed(example, beside).splitlines()
    assert shape.startswith("(13, 1, 6, 6) ")
    assert "0    0.90" in means  # of three times 0.5 and twice 1.5
    (kept,) = (Path(beside) / "pools").iterdir()
    found = read(Folder.of(str(kept.parent)), kept.name)
    assert pixels == "".join(one.images.numpy().tobytes().hex() for one in found.shards)


def test_the_files_can_be_read_with_dfkd(beside, monkeypatch, capsys):
    monkeypatch.chdir(beside)
    exec(WITH_DFKD, {})
    sizes = "[torch.Size([9, 1, 6, 6]), torch.Size([4, 1, 6, 6])]"
    assert capsys.readouterr().out == f"t000 [0.5, 1.5] {sizes}\n"


def test_the_name_can_be_worked_out(beside):
    assert printed(DIGEST, beside) == "True\n"


def test_the_page_describes_every_column_and_key(tmp_path):
    folder = Folder.of(str(tmp_path))
    schema = pa.ipc.open_file(folder.open(*keep_pool(folder))).schema
    told = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE))))
    keys = {key.decode() for key in schema.metadata}
    assert told == {*schema.names, *keys, *(field.name for field in fields(Provenance))} | {
        "dfkd_provenance"
    }
    assert f"`dfkd_format` | `{pool_files.FORMAT}`" in PAGE


def test_a_file_that_was_renamed_is_read(tmp_path):
    folder = Folder.of(str(tmp_path))
    (name,) = keep_pool(folder)
    (tmp_path / name).rename(tmp_path / "mine.arrow")
    assert read(folder, "mine.arrow").about == ABOUT
