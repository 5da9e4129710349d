"""From what an epoch's synthesis comes: a digest that grows by one link per epoch.

Equal lineages mean equal inputs of every epoch so far, therefore equal images and an equal state of
the method, bit for bit. So a lineage can serve as the key under which trials share their synthesis.
It ends, as "", with the first epoch whose synthesis looks at the student.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import torch

from dfkd.methods.method import Workbench
from dfkd.methods.shelf import digest


def origin(method: type, bench: Workbench) -> str:
    """The first link: the method, and all of its workbench but what the student's weights are."""
    teacher = bench.teacher
    places = {
        "method": f"{method.__module__}:{method.__qualname__}",
        "shape": bench.shape,
        "classes": bench.classes,
        "seed": bench.seed,
        "worker": (bench.team.rank, bench.team.size),
        "epochs": bench.student.epochs,
        "normalization": (teacher.mean, teacher.std),
        "network": teacher.network,
    }
    weights = teacher.network.state_dict()
    return digest(repr(places), repr(list(weights)), *weights.values(), bench.embeddings)


def descend(
    lineage: str, epoch: int, settings: Any, unread: Collection[str], rng: torch.Generator
) -> str:
    """The next link: an epoch with these settings, `unread` excepted, and this generator.

    It holds what moves the last bits of a sum too, as a trial may resume on another machine.
    """
    read = {key: value for key, value in asdict(settings).items() if key not in unread}
    facts = {"epoch": epoch, "settings": read, "computed on": machine(rng.device)}
    return digest(lineage, repr(facts), rng.get_state())


def machine(device: torch.device) -> tuple[str | int, ...]:
    """What floating-point results may depend on, beside their inputs."""
    if device.type == "cuda":
        return torch.__version__, torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return torch.__version__, device.type, threads, torch.backends.cpu.get_cpu_capability()
