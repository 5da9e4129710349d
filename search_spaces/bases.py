"""Bases: preset, recipe and search that several tasks share, one YAML file each in bases/.

A task that says `base: small` starts from bases/small.yaml, and what it says itself goes before.
Its text carries its base as a second YAML document, so that it is whole wherever it is read again:
in a run folder, or as the file that a user starts from.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping
from typing import Any

import yaml

from dfkd.methods.errors import unknown

KEYS = ("preset", "recipe", "search", "methods")  # of a base; all optional
NAMED = ("recipe", "search")  # those that hold things by name
SEPARATOR = "\n--- # base {}: all that the task above does not say itself\n"


@functools.cache
def shipped_bases() -> dict[str, str]:
    """Names and YAML texts of the bases that come with dfkd."""
    folder = importlib.resources.files("dfkd.search_spaces") / "bases"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=str)
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}


def read_task(text: str) -> tuple[Any, str]:
    """A task's tree with its base below it, and its text with its base behind it.

    Raises yaml.YAMLError for what is not YAML, ValueError with a reason for a base that cannot be
    used.
    """
    documents = list(yaml.safe_load_all(text))
    tree = documents[0] if documents else None
    if not isinstance(tree, dict) or ("base" not in tree and len(documents) == 1):
        return tree, text
    if "base" not in tree or len(documents) > 2:
        raise ValueError("holds several YAML documents; only a task with a base may have a second")
    name = tree["base"]
    if len(documents) == 1:
        known = shipped_bases()
        if name not in known:
            raise ValueError(f"base: {unknown('base', str(name), known)}")
        text = text.rstrip("\n") + SEPARATOR.format(name) + known[name]
        documents.append(yaml.safe_load(known[name]))
    base = documents[1]
    if not isinstance(base, dict):
        raise ValueError(f"base {name} must be a mapping of keys, got {base!r}")
    for key in base:
        if key not in KEYS:
            raise ValueError(f"base {name}: {unknown('key', str(key), KEYS)}")
        if key != "preset" and not isinstance(base[key], dict):
            raise ValueError(f"base {name}: {key} must be a mapping of keys, got {base[key]!r}")
    own = {key: value for key, value in tree.items() if key != "base"}
    return merged(base, own), text


def merged(base: Mapping[Any, Any], own: Mapping[Any, Any]) -> dict[Any, Any]:
    """What `own` says, and below it what `base` says, setting by setting, method by method.

    A dimension of the base that is null in `own` is not searched.

    >>> merged({"search": {"a": [1], "b": [2]}}, {"search": {"a": None, "c": [3]}, "epochs": 4})
    {'search': {'b': [2], 'c': [3]}, 'epochs': 4}
    """
    both = {**base, **own}
    for key in NAMED:
        if key in both:
            both[key] = _over(base.get(key), own.get(key))
    if isinstance(base.get("methods"), dict) and isinstance(own.get("methods", {}), dict):
        methods = {**base["methods"], **own.get("methods", {})}
        for name in methods:
            parts = (tree.get("methods", {}).get(name) or {} for tree in (base, own))
            below, above = parts
            if isinstance(below, dict) and isinstance(above, dict):
                methods[name] = merged(below, above)
        both["methods"] = methods
    return both


def _over(below: Any, above: Any) -> Any:
    """One mapping over another; what is no mapping is left for whoever checks it."""
    if above is None or below is None:
        return below if above is None else above
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    dropped = {key for key in below if key in above and above[key] is None}
    return {key: value for key, value in {**below, **above}.items() if key not in dropped}
