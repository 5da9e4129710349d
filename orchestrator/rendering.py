"""What people read at the end of a command, as Rich renderables and plain sentences."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dfkd.methods import METHODS, load_method
from dfkd.methods.settings import describe
from dfkd.orchestrator import outcomes
from dfkd.orchestrator.model_card import percent

if TYPE_CHECKING:  # `dfkd methods` would wait for Ray
    from dfkd.orchestrator.evaluation import Evaluation
    from dfkd.orchestrator.pool_files import Surveyed
    from dfkd.orchestrator.requests import SweepRequest
    from dfkd.orchestrator.specs import SweepSpec
    from dfkd.orchestrator.sweeps import SweepResult
    from dfkd.orchestrator.teaching import TrainedTeacher
    from dfkd.search_spaces.task import Task

MANY = 20  # classes: of more only the extremes are told


def outcome(result: SweepResult) -> Iterator[RenderableType]:
    """The summary under the leaderboard."""
    from dfkd.orchestrator import catalog

    return outcomes.outcome(catalog.outcome(result))


def plan(request: SweepRequest, spec: SweepSpec) -> Iterator[RenderableType]:
    """What a sweep would do."""
    yield (
        f"{request.trials} trials of {spec.epochs} epochs on {spec.task.name}, each with "
        f"{request.resources()}; {spec.scheduler}, {spec.search}, selected by {spec.select}"
    )
    for name, method in spec.methods.items():
        table = Table("setting", "fixed at or searched in", title=Text(name), title_justify="left")
        known = describe(load_method(name).settings_class)
        for key, setting in known.items():
            value = method.recipe.get(key, setting.default)
            searched = method.search.get(key)
            table.add_row(key, str(value) if searched is None else f"searched: {searched}")
        yield table
    yield from published(spec.task, spec.teacher.network, spec.student)


def published(task: Task, teacher: str, student: str) -> Iterator[RenderableType]:
    """What papers report for a task's pair of networks; nothing where they report nothing."""
    rows = [row for row in task.published if (row.teacher, row.student) == (teacher, student)]
    if not rows:
        return
    table = Table("published", *(row.source for row in rows))
    for method in dict.fromkeys(name for row in rows for name in row.accuracy):
        figures = (row.accuracy.get(method) for row in rows)
        table.add_row(method, *("" if value is None else f"{value:.2f} %" for value in figures))
    yield table
    yield f"{teacher} -> {student}, best epoch by test accuracy; not measured by dfkd"


def evaluation(found: Evaluation) -> Iterator[RenderableType]:
    """A student's figures, beside its teacher's where that is at hand."""
    table = Table("", "student", "teacher")
    teacher = "" if found.teacher_accuracy is None else percent(found.teacher_accuracy)
    if found.standard_error is not None:
        error = f" ± {100 * found.standard_error:.2f}"
        table.add_row("accuracy", percent(found.accuracy) + error, teacher)
    if found.agreement is not None:
        table.add_row("same class as the teacher", percent(found.agreement), "")
        table.add_row("KL(teacher || student), nats", f"{found.divergence:.4f}", "")
    if found.fidelity is not None:
        table.add_row("by the jury: same class", percent(found.jury_agreement), "")
        table.add_row("by the jury: fidelity, nats", f"{found.fidelity:.4f}", "0")
    yield table
    if found.images:
        yield f"on {found.images} labeled images of {found.task}; ± is one standard error"
    if found.pools:
        yield f"jury: synthetic images of {found.pools} pools that it was not taught from"


def teacher(found: TrainedTeacher) -> Iterator[RenderableType]:
    """A teacher that was trained: its figures, where it is, what to do with it."""
    table = Table("teacher", found.network)
    table.add_row("parameters", f"{found.parameters:,}")
    table.add_row("training", f"{found.training_images:,} images, {found.seconds:.0f} s")
    error = "" if found.standard_error is None else f" ± {100 * found.standard_error:.2f}"
    table.add_row("accuracy", percent(found.accuracy) + error)
    yield table
    if found.tested_on_training_images:
        yield (
            f"measured on the very {found.test_images} images that it was trained on, as there are "
            "no others: that says nothing about new ones"
        )
    elif found.test_images:
        yield f"on {found.test_images} labeled test images; ± is one standard error"
    yield f"the teacher is in {found.file}"
    options = ["--teacher", found.file] + ([] if found.data is None else ["--data", found.data])
    yield f"distill it: {shlex.join(['dfkd', 'sweep', found.task, *options])}"


def tasks(known: Iterable[Task]) -> Iterator[RenderableType]:
    """The tasks that ship."""
    table = Table("task", "classes", "image", "what it is")
    for task in known:
        size = f"{task.shape.channels}x{task.shape.height}x{task.shape.width}"
        table.add_row(task.name, str(len(task.classes)), size, task.summary)
    yield table
    yield "your own: dfkd show digits > mine.yaml, edit it, dfkd sweep mine.yaml"


def runs(found: Sequence[Mapping[str, Any]], storage: str) -> Iterator[RenderableType]:
    """The sweeps in a storage folder, from their summaries."""
    if not found:
        yield f"no sweeps in {storage}; start one: dfkd sweep digits"
        return
    table = Table("name", "task", "state", "trials ended", "best score")
    for facts in found:
        best = "" if facts["score"] is None else f"{facts['score']:.4f}"
        trials = f"{facts['ended']} of {facts['trials']}"
        table.add_row(facts["name"], facts["task"], facts["state"], trials, best)
    yield table


def pool(files: Sequence[Surveyed], folder: str) -> Iterator[RenderableType]:
    """The files of a pool, and how many images of each class they hold together."""
    from dfkd.orchestrator.pools import balance

    table = Table("file, begins with", "trial", "method", "epoch", "size", "images", "MB")
    for file in files:
        if file.about is None or file.shape is None:
            table.add_row(Text(file.name, style="red"), "cannot be read")
            continue
        about, shape = file.about, file.shape
        size = f"{shape.channels}x{shape.height}x{shape.width}"
        told = (about.trial, about.method, str(about.epoch), size)
        table.add_row(file.name[:12], *told, f"{file.images:,}", f"{file.bytes / 1e6:.2f}")
    yield table
    yield from (file.problem for file in files if file.problem)
    counts = balance(files)
    images, megabytes = sum(file.images for file in files), sum(file.bytes for file in files) / 1e6
    yield f"{images:,} images in {len(files)} files, {megabytes:.2f} MB, in {folder}"
    if 0 < len(counts) <= MANY:
        yield "of each class: " + ", ".join(f"{name}: {count:,}" for name, count in counts.items())
    elif counts:
        fewest, most = (choose(counts, key=counts.__getitem__) for choose in (min, max))
        yield (
            f"of each of {len(counts)} classes {images / len(counts):,.1f} on average, from "
            f"{counts[fewest]:,} ({fewest}) to {counts[most]:,} ({most})"
        )


def pool_as_json(files: Sequence[Surveyed]) -> Iterator[dict[str, Any]]:
    """The files of a pool as JSON values."""
    for file in files:
        yield {**asdict(file), "images": file.images}


def methods() -> Iterator[RenderableType]:
    """All methods."""
    table = Table("method", "what it is, and its paper", "year", "status", "needs")
    for name, listed in METHODS.items():
        told = Text.assemble(listed.summary, "\n" * bool(listed.paper), (listed.paper, "dim"))
        status = listed.status.replace(", partly reconstructed", " *")
        table.add_row(name, told, str(listed.year or ""), status, "\n".join(listed.needs))
    for column in table.columns:
        column.no_wrap = column.header != table.columns[1].header
    yield table
    yield "* partly reconstructed: its file says which parts; no code of the paper was public"
    yield "BN: BatchNorm layers in the teacher; maps, features: its feature maps, its linear head;"
    yield "text: names of the classes. What is in parentheses can be switched off by a setting."
    yield "settings and presets of one: dfkd methods NAME"


def settings_as_json(name: str) -> Iterator[dict[str, Any]]:
    """One method's settings as JSON values."""
    method = load_method(name)
    for setting in describe(method.settings_class).values():
        presets = {key: v[setting.name] for key, v in method.presets.items() if setting.name in v}
        facts = {"name": setting.name, "default": setting.default, "presets": presets}
        yield facts | {"help": setting.bounds.help}


def settings(name: str) -> Iterator[RenderableType]:
    """One method's settings: defaults, presets, bounds in words."""
    method = load_method(name)
    table = Table("setting", "default", *method.presets, "what it is")
    for setting in describe(method.settings_class).values():
        presets = (str(values.get(setting.name, "")) for values in method.presets.values())
        table.add_row(setting.name, str(setting.default), *presets, setting.bounds.help)
    yield table
    yield "fix one with --set NAME=VALUE" + (
        "; a bundle with --set preset=NAME" * bool(method.presets)
    )
