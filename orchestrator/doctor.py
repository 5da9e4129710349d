"""What can be wrong with an installation, tried rather than guessed."""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from dfkd.methods.errors import DfkdError
from dfkd.orchestrator.storage import Folder
from dfkd.search_spaces.files import cache_folder

PACKAGES = ("dfkd", "ray", "torch", "torchvision", "open_clip_torch", "optuna", "pyarrow")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    good: bool
    told: str


def examine(storage: str, address: str | None) -> Iterator[Finding]:
    """Look at packages, devices, folders, and last at Ray, which takes a few seconds."""
    yield Finding("python", True, f"{platform.python_version()} on {platform.platform()}")
    for package in PACKAGES:
        yield _attempt(package, functools.partial(version, package))
    yield _attempt("devices", _devices)
    yield _attempt("storage", lambda: _writable(Folder.of(storage)))
    yield _attempt("cache", lambda: _writable(Folder.of(str(cache_folder()))))
    yield _attempt("ray start", lambda: _ray(address))


def _attempt(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except PackageNotFoundError:
        return Finding(what, False, "not installed")
    except (DfkdError, ImportError, OSError, RuntimeError) as error:
        return Finding(what, False, str(error))


def _devices() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} CPU cores, {', '.join(gpus) or 'no GPU'}"


def _writable(folder: Folder) -> str:
    folder.require_writable()
    return f"{folder.uri} is writable"


def _ray(address: str | None) -> str:
    import ray

    from dfkd.orchestrator.clusters import ray_cluster

    start = time.perf_counter()
    with ray_cluster(address):
        resources = ray.cluster_resources()
        nodes = len(ray.nodes())
        took = time.perf_counter() - start
    have = f"{resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU"
    return f"{nodes} node(s) with {have}, up after {took:.1f} s"
