"""Files that a request names by URI, brought to where everything else looks for them."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.storage import Folder
from dfkd.search_spaces.files import cache_folder, write_atomically

BY_URI = re.compile(r"((?:[^:]+:)?)([a-z][a-z0-9]+://.+)")


@lru_cache(maxsize=16)
def fetched(reference: str, what: str) -> str:
    """`[NETWORK:]URI` with the path of a copy in its place; anything else as it is.

    The copy lies in dfkd's cache. `what` names the file in messages; raises ConfigError where there
    is none, and as Folder.read does.
    """
    found = BY_URI.fullmatch(reference)
    if found is None:
        return reference
    network, uri = found.groups()
    file = Folder.of(uri)
    data = file.parent.read(file.name)
    if data is None:
        raise ConfigError(f"{what} {uri} does not exist")
    place = cache_folder() / "fetched" / hashlib.blake2b(data, digest_size=8).hexdigest()
    write_atomically(place / file.name, data)
    return f"{network}{place / file.name}"
