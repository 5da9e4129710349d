"""The jury's control pools: made once per teacher, so that even a single trial can be judged.

They come from methods that need no student, run for a few rounds, and are kept with the teachers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from dfkd.methods import load_method
from dfkd.methods.jury import PROBES, ProbePool
from dfkd.methods.random_streams import stream
from dfkd.methods.settings import build, describe
from dfkd.orchestrator.places import Place
from dfkd.orchestrator.probes import pools_from_bytes, pools_to_bytes
from dfkd.orchestrator.runs import CONTROLS, Run
from dfkd.orchestrator.scores import SCORES
from dfkd.orchestrator.specs import SweepSpec, TrialSpec
from dfkd.orchestrator.trials import Surroundings, Trial
from dfkd.search_spaces.files import cache_folder, write_atomically
from dfkd.search_spaces.task import Task
from dfkd.search_spaces.teachers import TeacherWeights

VERSION = 1  # raise it when other pools are made: cached ones are then made anew
EXTRA_ROUNDS: Mapping[str, int] = {"deepinversion": 0, "fast": 10}
"""The methods, and rounds of theirs that come before those whose images are kept."""
NOISE = 0.2  # standard deviation of what makes one more pool of the first, in pixels of [0, 1]


def cached_controls(task: Task, teacher: TeacherWeights) -> bytes | None:
    """The file of this teacher's control pools; None where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, SafetensorError):
        data = _cached(task, teacher).read_bytes()
        pools_from_bytes(data)
        return data
    return None


def make_controls(task: Task, teacher: TeacherWeights, device: str = "cpu") -> bytes:
    """Make the control pools of a teacher; returns their file (see probes.py)."""
    pools: dict[str, Tensor] = {}
    for name in EXTRA_ROUNDS:
        pools[name] = _images(task, teacher, name, torch.device(device))
    first = next(iter(EXTRA_ROUNDS))
    clean = pools[first].float() / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = (clean + NOISE * noise).clamp(0, 1)
    pools[f"{first} and noise"] = (noisy * 255).round().to(torch.uint8)
    return pools_to_bytes([ProbePool(name, images) for name, images in pools.items()])


def equip(run: Run, sweep: SweepSpec, place: Place, say: Callable[[str], None]) -> None:
    """Give a run folder the control pools of its teacher, if its score needs any."""
    if SCORES[sweep.select].uses_real_labels or run.folder.exists(CONTROLS):
        return
    data = cached_controls(sweep.task, sweep.teacher)
    if data is None:
        say("making the jury's control pools, once per teacher")
        (data,) = place(make_controls, [(sweep.task, sweep.teacher, place.device)])
        write_atomically(_cached(sweep.task, sweep.teacher), data)
    run.folder.write(CONTROLS, data)


def _images(task: Task, teacher: TeacherWeights, name: str, device: torch.device) -> Tensor:
    """PROBES images uint8 [M, channels, H, W] of one method, made without regard to any student."""
    recipe = _recipe(task, teacher, name)
    spec = TrialSpec(id=name, method=name, recipe=recipe, student=task.student, epochs=2, seed=0)
    around = Surroundings(
        task=task, teacher=teacher, score=SCORES["fidelity"], evaluation=None, controls=()
    )
    method = Trial(spec, around, device=device).method
    method.epoch(0, stream(device, 0, "controls", name))
    pool: Any = method.source
    images: Tensor = pool.images[-PROBES:]
    return images.cpu()


def _recipe(task: Task, teacher: TeacherWeights, name: str) -> dict[str, Any]:
    """The task's settings for this method, with as many rounds of warm-up as the pool takes."""
    method = load_method(name)
    known = describe(method.settings_class)  # what all methods of a task share may be others'
    space = task.space(name, method.presets.get(task.preset or "small", {}))
    recipe = {key: value for key, value in space.recipe.items() if key in known}
    if not teacher.build(task).batch_norms:
        recipe["bn_weight"] = 0.0
    settings: Any = build(method.settings_class, recipe, f"control pool {name}")
    rounds = -(-PROBES // settings.batch_size) + EXTRA_ROUNDS[name]
    whole = {"warmup": 1, "warmup_rounds": rounds, "pool_capacity": 0, "held_out": 0.0}
    return {**recipe, **whole}


def _cached(task: Task, teacher: TeacherWeights) -> Path:
    """Where the pools lie; the name changes with all that they depend on."""
    facts = {
        "version": VERSION,
        "teacher": teacher.fingerprint,
        "recipes": {name: _recipe(task, teacher, name) for name in EXTRA_ROUNDS},
        "extra": dict(EXTRA_ROUNDS),
        "shape": [task.shape.channels, task.shape.height, task.shape.width],
        "normalize": [task.mean, task.std],
        "student": task.student,
        "probes": PROBES,
        "noise": NOISE,
    }
    key = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
    return cache_folder() / "controls" / f"{task.name}-{key}.safetensors"
