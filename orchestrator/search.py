"""Which recipe to try next: Optuna, one study per method, driven by Ray Tune.

Methods take turns, so that each gets the same number of trials. A method's first trial is the
task's own recipe; the search starts from there. Each suggestion draws from its own random stream,
seeded by the sweep's seed and the trial's number: a random search proposes the same recipes however
often the sweep was interrupted.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from dfkd.methods import load_method
from dfkd.methods.random_streams import derive_seed
from dfkd.methods.settings import Value, describe
from dfkd.orchestrator.specs import CONTROL_ID, SweepSpec, TrialSpec
from dfkd.search_spaces.dimensions import Choice, Dimension, Real, Whole

SEARCHES = ("optuna", "random")
STARTUP_TRIALS = 4  # TPE proposes at random until it has seen this many results of a method

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def distribution(dimension: Dimension) -> BaseDistribution:
    """Optuna's form of a dimension."""
    match dimension:
        case Real(low, high, log):
            return FloatDistribution(low, high, log=log)
        case Whole(low, high, log):
            return IntDistribution(low, high, log=log)
        case Choice(options):
            return CategoricalDistribution(options)


def includes(dimension: Dimension, value: Any) -> bool:
    """Whether a search of `dimension` could choose `value`."""
    if isinstance(dimension, Choice):
        return value in dimension.options
    return bool(dimension.low <= value <= dimension.high)


@dataclass(frozen=True, slots=True)
class Finished:
    """A trial whose score is known."""

    spec: TrialSpec
    score: float


class RecipeSearch:
    """Proposes trials and learns from their scores; knows nothing of how they are run."""

    def __init__(self, sweep: SweepSpec, finished: Sequence[Finished] = ()) -> None:
        self._sweep = sweep
        self._spaces = {
            name: {key: distribution(dimension) for key, dimension in plan.search.items()}
            for name, plan in sweep.methods.items()
        }
        self._studies = {name: optuna.create_study(direction="maximize") for name in sweep.methods}
        self._pending: dict[str, optuna.Trial] = {}
        for known in finished:
            self._note(known)

    def propose(self, number: int) -> TrialSpec:
        """The trial with this number (from 0); its id is `t000`, `t001`, ..."""
        names = list(self._sweep.methods)
        method = names[number % len(names)]
        study, space = self._studies[method], self._spaces[method]
        study.sampler = self._sampler(derive_seed(self._sweep.seed, "search", number))
        if number < len(names):
            study.enqueue_trial(self._task_recipe(method))
        trial = study.ask(space)
        id = f"t{number:03d}"
        self._pending[id] = trial
        return self._sweep.trial(id, method, dict(trial.params))

    def learn(self, spec: TrialSpec, score: float | None) -> None:
        """Tell the score of a trial; None if it failed."""
        trial = self._pending.pop(spec.id, None)
        if trial is not None and score is not None:
            self._studies[spec.method].tell(trial, score)
        elif trial is not None:
            self._studies[spec.method].tell(trial, state=optuna.trial.TrialState.FAIL)
        elif score is not None:  # proposed by an earlier process
            self._note(Finished(spec, score))

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self._sweep.search == "random":
            return optuna.samplers.RandomSampler(seed=seed % 2**32)
        return optuna.samplers.TPESampler(
            seed=seed % 2**32,
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,
        )

    def _task_recipe(self, method: str) -> dict[str, Value]:
        """The task's own values, where the search may choose them."""
        defaults = defaults_of(self._sweep, method)
        space = self._sweep.methods[method].search
        return {key: defaults[key] for key, d in space.items() if includes(d, defaults[key])}

    def _note(self, known: Finished) -> None:
        """Learn of a trial of an earlier process; the control, which no search chose, is none."""
        if known.spec.id == CONTROL_ID:
            return
        search, recipe = self._sweep.methods[known.spec.method].search, known.spec.recipe
        if all(key in recipe and includes(d, recipe[key]) for key, d in search.items()):
            trial = optuna.trial.create_trial(
                params={key: recipe[key] for key in search},
                distributions=self._spaces[known.spec.method],
                value=known.score,
            )
            self._studies[known.spec.method].add_trial(trial)


def defaults_of(sweep: SweepSpec, method: str) -> Mapping[str, Any]:
    """Every setting of a method with the value it has when the search does not choose it."""
    known = describe(load_method(method).settings_class)
    return {name: s.default for name, s in known.items()} | dict(sweep.methods[method].recipe)
