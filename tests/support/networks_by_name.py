"""Which tests of a task have to build its networks: those alone wait for `build_network`."""

from __future__ import annotations

import pytest

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import build_network


def needs_networks(*names: str) -> None:
    """Skip the test that calls this while one of these networks cannot be built by name."""
    for name in names:
        try:
            build_network(name, 3, 10)
        except ConfigError as error:
            pytest.skip(f"needs a network that cannot be built yet: {error}")
