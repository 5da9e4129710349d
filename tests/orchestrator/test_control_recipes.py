"""What control pools cost: never much, and for the small tasks just what it was."""

import pytest
import torch
from torch import nn

from dfkd.methods import load_method
from dfkd.methods.jury import PROBES
from dfkd.methods.networks import build_network
from dfkd.methods.settings import build
from dfkd.methods.teacher import Teacher
from dfkd.orchestrator import control_recipes as module
from dfkd.orchestrator.control_recipes import (
    BUDGET,
    EXTRA_ROUNDS,
    FEWEST,
    ROUND,
    ROUND_PIXELS,
    Cost,
    control_recipe,
    cost_of,
)
from dfkd.search_spaces.task import load_task, shipped_tasks

SMALL = ("digits", "fashion_mnist", "mnist")
DEAR = Cost(multiplications=4e8, remembered=400.0)


def recipe_and_settings(task, name, cost=DEAR):
    recipe = control_recipe(task, cost, name)
    return recipe, build(load_method(name).settings_class, recipe.settings, name)


@pytest.mark.parametrize("task", SMALL)
def test_small_tasks_have_pools_by_their_own_recipes(task):
    """So that what was judged by them stays comparable: docs/jury.md, and cached pools."""
    task = load_task(task)
    network = build_network(task.teacher.network, task.shape.channels, len(task.classes))
    cost = cost_of(Teacher(network, task.mean, task.std), task)
    for name in EXTRA_ROUNDS:
        recipe, settings = recipe_and_settings(task, name, cost)
        own = task.space(name, load_method(name).presets["small"]).recipe
        known = {key: value for key, value in own.items() if hasattr(settings, key)}
        rounds = {"warmup", "warmup_rounds", "pool_capacity", "held_out"}
        assert recipe.settings.keys() == known.keys() | rounds
        assert all(recipe.settings[key] == known[key] for key in known.keys() - rounds)
        assert recipe.images == PROBES == 300


@pytest.mark.parametrize("name", EXTRA_ROUNDS)
@pytest.mark.parametrize("task", shipped_tasks())
def test_no_teacher_has_dear_control_pools(task, name):
    task = load_task(task)
    recipe, settings = recipe_and_settings(task, name)
    assert settings.synthesis_steps <= 60 and settings.batch_size <= ROUND
    assert settings.batch_size * task.shape.height * task.shape.width <= ROUND_PIXELS
    assert FEWEST <= recipe.images <= settings.batch_size * recipe.rounds
    assert recipe.work <= 2 * FEWEST * 60


@pytest.mark.parametrize("name", EXTRA_ROUNDS)
def test_a_dearer_teacher_has_no_more_images(name):
    task = load_task("cifar10")
    costs = [Cost(BUDGET / work, 10.0) for work in (1e9, 12_000, 9_000, 6_000, 3_000, 100)]
    images = [recipe_and_settings(task, name, cost)[0].images for cost in costs]
    assert images == sorted(images, reverse=True)
    assert (images[0], images[-1]) == (PROBES, FEWEST)


@pytest.mark.parametrize("name", EXTRA_ROUNDS)
def test_what_leaves_a_tasks_classes_as_they_are_is_kept(name):
    task = load_task("imagenet")
    assert recipe_and_settings(task, name)[1].shift == task.shared.recipe["shift"]


@pytest.mark.parametrize("name", EXTRA_ROUNDS)
def test_a_dear_teacher_that_remembers_large_numbers_has_a_light_l_bn(name):
    task = load_task("cifar10")
    light, heavy = (
        recipe_and_settings(task, name, Cost(4e8, remembered))[1].bn_weight
        for remembered in (1000.0, 100.0)
    )
    assert 10 * light == pytest.approx(heavy, rel=0.1)


@pytest.mark.parametrize("name", EXTRA_ROUNDS)
@pytest.mark.parametrize("multiplications", [1e6, 4e8])
def test_a_teacher_without_batch_norm_has_no_l_bn(name, multiplications):
    task = load_task("cifar10")
    assert recipe_and_settings(task, name, Cost(multiplications, 0.0))[1].bn_weight == 0


def test_a_teacher_of_one_size_is_never_shown_half_of_it():
    task = load_task("imagenet")
    shares = [
        recipe_and_settings(task, "deepinversion", Cost(4e9, 400.0, halves))[1].half_steps
        for halves in (True, False)
    ]
    assert shares[0] > 0 == shares[1]


@pytest.mark.parametrize(("name", "halves"), [("convnet-8-8", True), ("keras-cifar10", False)])
def test_whether_a_teacher_takes_half_the_size_is_tried(name, halves):
    task = load_task("cifar10")
    network = build_network(name, 3, len(task.classes))
    assert cost_of(Teacher(network, task.mean, task.std), task).halves is halves


def test_the_cost_is_that_of_convolutions_and_linear_layers(monkeypatch):
    monkeypatch.setattr(module, "LEAST_PER_PIXEL", 0)
    task = load_task("cifar10")
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    convolutions = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, groups=8)]
    network = nn.Sequential(*convolutions, nn.BatchNorm2d(8), *pooled, nn.Linear(8, 10))
    cost = cost_of(Teacher(network, task.mean, task.std), task)
    assert cost.multiplications == 16 * 16 * 8 * 27 + 14 * 14 * 8 * 9 + 8 * 10
    assert cost.remembered == pytest.approx(float(torch.ones(8).norm()))


def test_a_teacher_that_shows_no_layers_is_not_taken_for_free():
    task = load_task("cifar10")
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    cost = cost_of(Teacher(network, task.mean, task.std), task)
    assert cost.multiplications == 10_000 * 32 * 32 and cost.remembered == 0
