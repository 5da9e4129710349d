"""What is to be run, as values: one trial, and a sweep of them.

A run folder holds these as JSON, so any process that can read the folder can run any of its trials.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dfkd.methods import CONTROL, load_method
from dfkd.methods.errors import ConfigError, unknown
from dfkd.methods.networks import build_network, require_logits
from dfkd.methods.settings import Value, build, coerce, describe, problems
from dfkd.search_spaces.dimensions import (
    Choice,
    Dimension,
    Real,
    declaration,
    ends,
    parse_dimension,
)
from dfkd.search_spaces.label_text import label_embeddings
from dfkd.search_spaces.task import Task, parse_task
from dfkd.search_spaces.teachers import TeacherWeights

CONTROL_ID = "control"
LATER = ("teacher_pools", "from_pool")  # in a definition only if set: older ones lack them


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpec:
    """One recipe to run once."""

    id: str
    method: str
    recipe: Mapping[str, Value]
    """Every setting of the method that is not its default."""
    searched: tuple[str, ...] = ()
    """Which of them the sweep's search chose."""
    student: str
    epochs: int
    seed: int

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> TrialSpec:
        """Read back what `asdict` gave and JSON stored."""
        return cls(**{**tree, "searched": tuple(tree["searched"])})


@dataclass(frozen=True, slots=True)
class MethodPlan:
    """One method in a sweep: the settings it starts from, and what the search varies."""

    recipe: Mapping[str, Value]
    search: Mapping[str, Dimension]


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """What determines a sweep's results; two sweeps with equal definitions are the same sweep."""

    task: Task
    methods: Mapping[str, MethodPlan]
    epochs: int
    student: str
    teacher: TeacherWeights
    seed: int = 0
    scheduler: str = "asha"
    search: str = "optuna"
    select: str = "accuracy"
    workers: int = 1
    control: bool = True
    data: str | None = None
    """Labeled images of the user's, instead of the task's."""
    teacher_pools: bool = False
    """Whether trials are taught from each other's shards."""
    from_pool: str | None = None
    """Where a kept pool lies that trials draw from."""

    def definition(self) -> dict[str, Any]:
        """The sweep as JSON values; the teacher by its fingerprint."""
        return {
            "task": self.task.text,
            "task_data": self.task.data,
            "task_embeddings": self.task.embeddings,
            "order": list(self.methods),
            "methods": {
                name: {
                    "recipe": dict(plan.recipe),
                    "search": {key: declaration(d) for key, d in plan.search.items()},
                }
                for name, plan in self.methods.items()
            },
            "epochs": self.epochs,
            "student": self.student,
            "teacher": self.teacher.fingerprint,
            "seed": self.seed,
            "scheduler": self.scheduler,
            "search": self.search,
            "select": self.select,
            "workers": self.workers,
            "control": self.control,
            "data": self.data,
            **{key: getattr(self, key) for key in LATER if getattr(self, key)},
        }

    def fingerprint(self) -> str:
        """12 hex digits that change with anything in the definition."""
        return fingerprint(self.definition())

    def trial(self, id: str, method: str, chosen: Mapping[str, Value]) -> TrialSpec:
        """A trial of this sweep whose searched settings are `chosen`."""
        return TrialSpec(
            id=id,
            method=method,
            recipe={**self.methods[method].recipe, **chosen},
            searched=tuple(chosen),
            student=self.student,
            epochs=self.epochs,
            seed=self.seed,
        )

    def control_trial(self) -> TrialSpec:
        """The same budget spent on noise instead of synthesis."""
        shared = next(iter(self.methods.values())).recipe
        known = describe(load_method(CONTROL).settings_class)
        recipe = {key: value for key, value in shared.items() if key in known}
        return TrialSpec(
            id=CONTROL_ID,
            method=CONTROL,
            recipe=recipe,
            student=self.student,
            epochs=self.epochs,
            seed=self.seed,
        )


def fingerprint(definition: Mapping[str, Any]) -> str:
    """12 hex digits of a JSON value."""
    text = json.dumps(definition, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@contextmanager
def gathering(found: list[str], prefix: str = "") -> Iterator[None]:
    """Add the problems of a ConfigError in the block to `found`, and go on after the block."""
    try:
        yield
    except ConfigError as error:
        found += [prefix + problem for problem in error.problems]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a user chose on top of a task; all of it optional."""

    methods: tuple[str, ...] = ("nayer",)
    epochs: int | None = None
    student: str | None = None
    settings: Mapping[str, str | Value] = field(default_factory=dict)


def plan_methods(task: Task, choices: Choices) -> dict[str, MethodPlan]:
    """Settings and dimensions of each chosen method; raises ConfigError with all problems.

    What a user sets (`preset` included) is not searched. A user's preset takes the place of the
    task's, and with it of what the task sets for the method; unless it is the task's own. A setting
    may belong to only some of the chosen methods, but must belong to one. A task's recipe may lie
    outside what the task searches: the search then starts elsewhere.
    """
    settings = dict(choices.settings)
    preset = settings.pop("preset", None)
    epochs = task.epochs if choices.epochs is None else choices.epochs
    found: list[str] = []
    known: dict[str, set[str]] = {}
    for name in choices.methods:
        with gathering(found):
            known[name] = set(describe(load_method(name).settings_class))
    everything = set().union(*known.values())
    found += [
        unknown(f"setting of {' or '.join(known)}", key, everything | {"preset"})
        for key in settings
        if known and key not in everything
    ]
    plans = {}
    for name, names in known.items():
        own = {key: value for key, value in settings.items() if key in names}
        with gathering(found):
            plans[name] = _plan(task, name, own, preset)
            _leave_epochs_to_learn(name, plans[name], epochs)
    if epochs < 1:
        found.append(f"epochs must be at least 1, got {epochs}")
    with gathering(found, "student: "):
        name = choices.student or task.student
        network = build_network(name, task.shape.channels, len(task.classes))
        require_logits(network, name, task.shape, len(task.classes))
    with gathering(found):
        label_embeddings(task.embeddings, task.classes)
    if found:
        raise ConfigError(*dict.fromkeys(found))
    return plans


def objections(task: Task, plans: Mapping[str, MethodPlan], teacher: TeacherWeights) -> list[str]:
    """Why methods cannot work with this teacher; its architecture alone counts."""
    built = teacher.build(task)
    found = []
    for name, plan in plans.items():
        method = load_method(name)
        settings = build(method.settings_class, plan.recipe, name)
        found += [f"{name}: {text}" for text in method.objections(settings, built)]
    return found


def _plan(task: Task, name: str, settings: Mapping[str, Any], preset: Any) -> MethodPlan:
    method = load_method(name)
    kind = method.settings_class
    known = describe(kind)
    found: list[str] = []
    space = task.space(name, method.presets.get(task.preset or "", {}))
    recipe: Mapping[str, Any] = space.recipe
    bundle: Mapping[str, Any] = {}
    if preset is not None and preset not in method.presets:
        found.append(unknown(f"preset of {name}", str(preset), method.presets))
    elif preset is not None and preset == task.preset:
        bundle = space.recipe
    elif preset is not None:
        recipe, bundle = task.shared.recipe, method.presets[preset]
    chosen = {**bundle, **settings}
    found += problems(kind, settings, name)
    found += problems(kind, space.recipe, f"task {task.name}, {name}")
    where = f"task {task.name}, search, {name}"
    search = {}
    for key, dimension in space.search.items():
        if key in chosen:
            continue
        wrong = [text for end in ends(dimension) for text in problems(kind, {key: end}, where)]
        if not wrong and isinstance(dimension, Real) and known[key].type is int:
            wrong = [f"{where}: {key} takes whole numbers only; add whole: true to its range"]
        if not wrong:
            search[key] = _fitted(dimension, known[key].type)
        found += wrong
    if found:
        raise ConfigError(*found)
    values = {key: coerce(v, known[key].type) for key, v in {**recipe, **chosen}.items()}
    return MethodPlan(values, search)


def _fitted(dimension: Dimension, wanted: type) -> Dimension:
    """The dimension with options of a setting's type: YAML reads 1e-2 as a word."""
    if not isinstance(dimension, Choice):
        return dimension
    return Choice(tuple(dict.fromkeys(coerce(option, wanted) for option in dimension.options)))


def _leave_epochs_to_learn(name: str, plan: MethodPlan, epochs: int) -> None:
    """Raise ConfigError where the warm-up takes all epochs: the student would learn nothing."""
    settings = build(load_method(name).settings_class, plan.recipe, name)
    warmup = settings.warmup
    if "warmup" in plan.search:
        warmup = max(int(end) for end in ends(plan.search["warmup"]))
    if 1 <= epochs <= warmup:
        raise ConfigError(
            f"epochs {epochs} leaves {name}'s student no epoch to learn: warmup is {warmup}; "
            f"raise --epochs above {warmup}, or --set warmup={epochs // 2}"
        )


def task_from_definition(definition: Mapping[str, Any]) -> Task:
    """The task of a sweep that was read back from its run folder."""
    task = parse_task(definition["task"], "the sweep's task")
    return replace(task, data=definition["task_data"], embeddings=definition["task_embeddings"])


def sweep_from_definition(definition: Mapping[str, Any], teacher: TeacherWeights) -> SweepSpec:
    """The sweep that was read back from its run folder."""
    plans = {name: definition["methods"][name] for name in definition["order"]}
    methods = {
        name: MethodPlan(
            plan["recipe"], {key: parse_dimension(d) for key, d in plan["search"].items()}
        )
        for name, plan in plans.items()
    }
    kept = ("epochs", "student", "seed", "scheduler", "search", "select", "workers", "control")
    return SweepSpec(
        task=task_from_definition(definition),
        methods=methods,
        teacher=teacher,
        data=definition["data"],
        **{key: definition[key] for key in kept},
        **{key: definition[key] for key in LATER if key in definition},
    )


def trial_as_json(spec: TrialSpec) -> dict[str, Any]:
    """A trial as JSON values, for its `recipe.json`."""
    return asdict(spec)
