"""The jury's control pools: made once per teacher, so that even a single trial can be judged.

They come from methods that need no student, run for a few rounds, and are kept with the teachers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from dfkd.methods.jury import ProbePool
from dfkd.methods.random_streams import stream
from dfkd.orchestrator.control_recipes import (
    EXTRA_ROUNDS,
    ControlRecipe,
    control_recipe,
    cost_of,
)
from dfkd.orchestrator.places import Here, Place
from dfkd.orchestrator.probes import pools_from_bytes, pools_to_bytes
from dfkd.orchestrator.runs import CONTROLS, Run
from dfkd.orchestrator.scores import SCORES
from dfkd.orchestrator.specs import SweepSpec, TrialSpec
from dfkd.orchestrator.trials import Surroundings, Trial
from dfkd.search_spaces.files import cache_folder, write_atomically
from dfkd.search_spaces.task import Task
from dfkd.search_spaces.teachers import TeacherWeights, every_quarter

VERSION = 2  # raise it when other pools are made: cached ones are then made anew
NOISE = 0.2  # standard deviation of what makes one more pool of the first, in pixels of [0, 1]
SHORT = 5.0  # seconds in which nothing is said of how far it is


def cached_controls(task: Task, teacher: TeacherWeights) -> bytes | None:
    """The file of this teacher's control pools; None where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, SafetensorError):
        data = _cached(task, teacher).read_bytes()
        pools_from_bytes(data)
        return data
    return None


def make_controls(
    task: Task,
    teacher: TeacherWeights,
    place: Place | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> bytes:
    """Make the control pools of a teacher; returns their file (see probes.py).

    `say` is told now and then how far it is, if it takes long.
    """
    place = place or Here()
    recipes = _recipes(task, teacher)
    total = sum(recipe.work for recipe in recipes)
    done, told, began = 0, every_quarter("control pools", say, "made"), time.monotonic()

    def on_work(work: int) -> None:
        nonlocal done
        done += work
        if time.monotonic() - began > SHORT:
            told(done, total)

    calls = [(task, teacher, recipe, place.device) for recipe in recipes]
    images = place.watched(synthesized, calls, on_work)
    pools = {recipe.method: found for recipe, found in zip(recipes, images, strict=True)}
    first = next(iter(pools))
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
        data = make_controls(sweep.task, sweep.teacher, place, say)
        write_atomically(_cached(sweep.task, sweep.teacher), data)
    run.folder.write(CONTROLS, data)


def synthesized(
    task: Task, teacher: TeacherWeights, recipe: ControlRecipe, device: str
) -> Iterator[int | Tensor]:
    """The images uint8 [M, channels, H, W] of one pool, made without regard to any student.

    Before them, at each round's end, what of the recipe's work it was.
    """
    name, where = recipe.method, torch.device(device)
    settings = {**recipe.settings, "warmup": recipe.rounds, "warmup_rounds": 1}
    spec = TrialSpec(
        id=name, method=name, recipe=settings, student=task.student, epochs=recipe.rounds, seed=0
    )
    around = Surroundings(task=task, teacher=teacher, score=SCORES["fidelity"], evaluation=None)
    method = Trial(spec, around, device=where).method
    rng = stream(where, 0, "controls", name)
    for number in range(recipe.rounds):
        method.epoch(number, rng)
        yield recipe.work // recipe.rounds
    pool: Any = method.source
    images: Tensor = pool.images[-recipe.images :]
    yield images.cpu()


def _recipes(task: Task, teacher: TeacherWeights) -> list[ControlRecipe]:
    cost = cost_of(teacher.build(task), task)
    return [control_recipe(task, cost, name) for name in EXTRA_ROUNDS]


def _cached(task: Task, teacher: TeacherWeights) -> Path:
    """Where the pools lie; the name changes with all that they depend on."""
    recipes = _recipes(task, teacher)
    facts = {
        "version": VERSION,
        "teacher": teacher.fingerprint,
        "recipes": {recipe.method: dict(recipe.settings) for recipe in recipes},
        "extra": dict(EXTRA_ROUNDS),
        "shape": [task.shape.channels, task.shape.height, task.shape.width],
        "normalize": [task.mean, task.std],
        "student": task.student,
        "probes": recipes[0].images,
        "noise": NOISE,
    }
    key = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()
    return cache_folder() / "controls" / f"{task.name}-{key}.safetensors"
