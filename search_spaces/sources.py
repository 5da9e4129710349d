"""Labeled images that go by a name; any other source is the path of a file or a folder."""

from __future__ import annotations

SOURCES = ("digits", "fashion_mnist", "mnist")


def is_named(source: str) -> bool:
    """Whether this is one of SOURCES rather than a path; a folder called so is `./mnist`."""
    return source in SOURCES
