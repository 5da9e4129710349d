"""dfkd itself, as its wheel holds it, for machines that have another version of it or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dfkd

PACKAGES = ("methods", "orchestrator", "search_spaces")
SUFFIXES = (".py", ".yaml", ".safetensors")


def files() -> Iterator[tuple[str, Path]]:
    """What a wheel of the dfkd that runs holds of it: places, as dfkd/cli.py, and files, in order.

    From an installed dfkd as from a checkout, whose tests and documents are left out.
    """
    root = Path(dfkd.__file__).parent
    found = [root / name for name in ("__init__.py", "cli.py", "py.typed")]
    for package in PACKAGES:
        found += [path for path in (root / package).rglob("*") if path.suffix in SUFFIXES]
    for path in sorted(found):
        yield f"dfkd/{path.relative_to(root).as_posix()}", path


def unpack(folder: Path) -> list[Path]:
    """Write dfkd below `folder` as pip would install it, without what it needs; returns the parts.

    Two folders to import from: the package, and the one by which its version is known. No wheel
    file: Ray would have pip install that on every node, and pip is missing where uv made the
    environment.
    """
    for place, path in files():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(path.read_bytes())
    about = folder / f"dfkd-{dfkd.__version__}.dist-info"
    about.mkdir()
    facts = f"Metadata-Version: 2.1\nName: dfkd\nVersion: {dfkd.__version__}\n"
    (about / "METADATA").write_text(facts)
    return [folder / "dfkd", about]
