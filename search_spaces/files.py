"""Where dfkd keeps files on this machine, and how it writes them."""

from __future__ import annotations

import importlib.util
import os
import secrets
from pathlib import Path


def cache_folder() -> Path:
    """$DFKD_CACHE, or dfkd in the user's cache folder."""
    if chosen := os.environ.get("DFKD_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dfkd"


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write so that no reader ever sees half a file, even with two writers or a full disk.

    Who may read it is the umask's to say, as for any new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def packaged_file(package: str, file: str) -> Path | None:
    """A file of an installed package, which is not imported; None where it is not there."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / file
    return path if path.is_file() else None
