import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tasks import plan, tree, write_task

from dfkd.methods import load_method
from dfkd.methods.settings import build, problems
from dfkd.orchestrator.search import Finished, RecipeSearch
from dfkd.search_spaces.dimensions import Choice, Whole

pytest_plugins = ["small_task_fixtures"]

METHODS = ("nayer", "noise")


@pytest.fixture(scope="module")
def sweeps(stripes_file, dfkd_cache):
    """Makes a sweep of the small task by either search."""
    made = {}

    def make(search="random", seed=0, methods=METHODS):
        key = (search, seed, methods)
        if key not in made:
            made[key] = plan(stripes_file, search=search, seed=seed, methods=methods)
        return made[key]

    return make


both_searches = pytest.mark.parametrize("search", ["random", "optuna"])


def score_of(spec):
    """The smaller the student's learning rate the better: something to be learned."""
    return -abs(math.log(spec.recipe["student_lr"] / 0.05))


def run(search, numbers):
    """Propose and learn one after the other."""
    specs = []
    for number in numbers:
        specs.append(search.propose(number))
        search.learn(specs[-1], score_of(specs[-1]))
    return specs


@both_searches
def test_every_method_begins_with_the_tasks_own_recipe(sweeps, search):
    sweep = sweeps(search)
    recipes = RecipeSearch(sweep)
    for number, method in enumerate(METHODS):
        settings = load_method(method).settings_class
        own = build(settings, sweep.task.space(method).recipe, "task")
        assert build(settings, recipes.propose(number).recipe, "trial") == own


@both_searches
def test_methods_take_turns(sweeps, search):
    specs = run(RecipeSearch(sweeps(search)), range(10))
    assert [spec.method for spec in specs] == [*METHODS] * 5


def test_trials_are_numbered(sweeps):
    assert [spec.id for spec in run(RecipeSearch(sweeps()), range(3))] == ["t000", "t001", "t002"]


@both_searches
def test_proposals_differ(sweeps, search):
    specs = run(RecipeSearch(sweeps(search)), range(8))
    assert len({(spec.method, tuple(spec.recipe.items())) for spec in specs}) == 8


@both_searches
@given(number=st.integers(0, 2000), seed=st.integers(0, 3))
def test_a_proposal_lies_within_its_dimensions(sweeps, search, number, seed):
    sweep = sweeps(search, seed)
    spec = RecipeSearch(sweep).propose(number)
    for key, dimension in sweep.methods[spec.method].search.items():
        value = spec.recipe[key]
        if isinstance(dimension, Choice):
            assert value in dimension.options
        else:
            assert dimension.low <= value <= dimension.high
            assert not isinstance(dimension, Whole) or isinstance(value, int)


@both_searches
@given(number=st.integers(0, 2000))
def test_the_method_allows_what_is_proposed(sweeps, search, number):
    spec = RecipeSearch(sweeps(search)).propose(number)
    assert not problems(load_method(spec.method).settings_class, spec.recipe, spec.method)


def test_what_is_fixed_stays_fixed(stripes_file, dfkd_cache):
    sweep = plan(stripes_file, settings={"temperature": 3.0})
    specs = run(RecipeSearch(sweep), range(6))
    assert {spec.recipe["temperature"] for spec in specs} == {3.0}


@given(interrupted=st.lists(st.integers(1, 11), max_size=3), seed=st.integers(0, 3))
def test_a_random_search_proposes_the_same_however_often_it_is_interrupted(
    sweeps, interrupted, seed
):
    sweep = sweeps(seed=seed)
    whole = run(RecipeSearch(sweep), range(12))
    pieces = []
    marks = sorted({0, 12, *interrupted})
    for start, stop in itertools.pairwise(marks):
        finished = [Finished(spec, score_of(spec)) for spec in pieces]
        pieces += run(RecipeSearch(sweep, finished), range(start, stop))
    assert pieces == whole


def test_a_random_search_does_not_listen(sweeps):
    deaf, whole = RecipeSearch(sweeps()), run(RecipeSearch(sweeps()), range(8))
    assert [deaf.propose(number) for number in range(8)] == whole


@both_searches
def test_another_seed_proposes_other_recipes(sweeps, search):
    one, two = (run(RecipeSearch(sweeps(search, seed)), range(2, 8)) for seed in (0, 1))
    assert all(a.recipe != b.recipe for a, b in zip(one, two, strict=True))


def distance(specs):
    """How far on average from the best learning rate."""
    return -sum(map(score_of, specs)) / len(specs)


def test_optuna_learns_from_scores(sweeps):
    specs = run(RecipeSearch(sweeps("optuna", methods=("nayer",))), range(40))
    at_random = run(RecipeSearch(sweeps("random", methods=("nayer",))), range(40))
    assert distance(specs[20:]) < 0.7 * distance(at_random)


@pytest.mark.parametrize("stop", [1, 2, 5, 9])
def test_a_resumed_search_proposes_what_it_would_have(sweeps, stop):
    sweep = sweeps("optuna")
    live = RecipeSearch(sweep)
    finished = [Finished(spec, score_of(spec)) for spec in run(live, range(stop))]
    resumed = RecipeSearch(sweep, finished)
    assert run(resumed, range(stop, 12)) == run(live, range(stop, 12))


def test_a_trial_of_an_earlier_process_is_learned_from(sweeps):
    """An interrupted trial that ends after the resume was proposed by nobody here."""
    sweep = sweeps("optuna")
    specs = run(RecipeSearch(sweep), range(6))
    told, resumed = (
        RecipeSearch(sweep),
        RecipeSearch(sweep, [Finished(s, score_of(s)) for s in specs]),
    )
    for spec in specs:
        told.learn(spec, score_of(spec))
    assert told.propose(6) == resumed.propose(6)


@both_searches
def test_a_failed_trial_does_not_end_the_search(sweeps, search):
    recipes = RecipeSearch(sweeps(search))
    for number in range(4):
        recipes.learn(recipes.propose(number), None)
    assert recipes.propose(4).id == "t004"


@both_searches
def test_many_trials_may_be_under_way(sweeps, search):
    recipes = RecipeSearch(sweeps(search))
    specs = [recipes.propose(number) for number in range(8)]
    for spec in reversed(specs):
        recipes.learn(spec, score_of(spec))
    assert Counter(spec.method for spec in specs) == {"nayer": 4, "noise": 4}


def test_the_control_teaches_the_search_nothing(sweeps):
    sweep = sweeps("optuna", methods=("nayer",))
    with_control, without = RecipeSearch(sweep), RecipeSearch(sweep)
    with_control.learn(sweep.control_trial(), 0.1)
    assert run(with_control, range(8)) == run(without, range(8))


def test_the_control_teaches_the_search_of_its_own_method_nothing(sweeps):
    sweep = sweeps("optuna", methods=("noise",))
    with_control, without = RecipeSearch(sweep), RecipeSearch(sweep)
    with_control.learn(sweep.control_trial(), 0.1)
    assert run(with_control, range(8)) == run(without, range(8))


def searching(tmp_path, changes):
    return RecipeSearch(plan(write_task(tmp_path, changes), methods=("noise",)))


def test_the_control_may_lack_what_is_searched(tmp_path, dfkd_cache):
    recipe = {key: value for key, value in tree()["recipe"].items() if key != "student_lr"}
    sweep = plan(write_task(tmp_path, {"recipe": recipe}), methods=("noise",))
    RecipeSearch(sweep).learn(sweep.control_trial(), 0.1)


def test_a_task_whose_recipe_is_none_of_the_options_can_be_searched(tmp_path, dfkd_cache):
    assert searching(tmp_path, {"recipe.temperature": 3.0}).propose(0)


def test_a_task_whose_recipe_is_out_of_range_can_be_resumed(tmp_path, dfkd_cache):
    sweep = plan(write_task(tmp_path, {"recipe.student_lr": 0.9}), methods=("noise",))
    first = RecipeSearch(sweep).propose(0)
    assert RecipeSearch(sweep, [Finished(first, 0.5)]).propose(1)
