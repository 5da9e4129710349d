"""Where dfkd keeps files on this machine, and how it writes them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """$DFKD_CACHE, or dfkd in the user's cache folder."""
    if "DFKD_CACHE" in os.environ:
        return Path(os.environ["DFKD_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dfkd"


def write_atomically(path: Path, data: bytes) -> None:
    """Write so that no reader ever sees half a file, even with two writers or a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
