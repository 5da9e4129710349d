"""What follows from a few measured steps."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measurements import MB, measured, point, sample
from ray.tune.experiment.trial import Trial as TuneTrial

from dfkd.methods.effort import Effort
from dfkd.methods.pieces import PIECE
from dfkd.orchestrator.estimates import (
    Schedule,
    asha_share,
    extrapolated,
    host_beside_a_gpu,
    memory_plan,
    time_plan,
)
from dfkd.orchestrator.schedulers import make_scheduler

IMAGES = {"synthesis": 10, "distillation": 10, "judging": 10}


def schedule(**changes):
    values = {
        "warmups": 2,
        "epochs": 3,
        "warmup": Effort(rounds=5, steps=20),
        "learning": Effort(rounds=1, steps=4, lessons=50),
        "judged": 100,
        "images": IMAGES,
    }
    return Schedule(**{**values, **changes})


# Time


def test_a_trials_time_is_what_each_step_takes_times_their_number():
    plan = time_plan(measured(), schedule())
    assert plan.synthesis == pytest.approx(2 * 20 * 0.1 + 3 * 4 * 0.2)
    assert plan.distillation == pytest.approx(3 * 50 * 0.1)
    assert plan.judging == pytest.approx(5 * 100 * 0.001)
    assert plan.trial == pytest.approx(plan.synthesis + plan.distillation + plan.judging)


def test_two_lengths_of_rounds_tell_what_a_round_takes_beside_its_steps():
    short, long = sample(1, 2, 0, synthesis=0.7), sample(1, 12, 0, synthesis=1.7)
    found = measured(point(warmup=(short, long)))
    plan = time_plan(found, schedule(warmup=Effort(rounds=1, steps=100), warmups=1, epochs=0))
    assert plan.synthesis == pytest.approx(0.5 + 100 * 0.1)


def test_a_long_round_that_took_less_than_a_short_one_makes_no_step_negative():
    short, long = sample(1, 2, 0, synthesis=0.9), sample(1, 4, 0, synthesis=0.8)
    found = measured(point(warmup=(short, long)))
    assert time_plan(found, schedule(warmups=1, epochs=0)).synthesis >= 0


def test_a_method_without_synthesis_spends_no_time_on_it():
    nothing = measured(point(warmup=(), learning=(sample(0, 0, 5, distillation=0.5),)))
    assert time_plan(nothing, schedule(learning=Effort(lessons=50))).synthesis == 0


def test_larger_batches_lie_on_the_line_through_those_that_were_measured():
    small, larger = point(2), point(4, warmup=(sample(1, 4, 0, synthesis=0.6),))
    plan = time_plan(
        measured(small, larger),
        schedule(warmups=1, epochs=0, warmup=Effort(rounds=1, steps=4), images={**IMAGES}),
    )
    assert plan.synthesis == pytest.approx(0.6 + (10 - 4) * (0.6 - 0.4) / 2)


@given(st.floats(0, 10), st.floats(0, 10), st.integers(1, 500))
def test_a_larger_batch_costs_no_less_and_at_most_in_proportion(first, second, images):
    cost = extrapolated([(4, first), (8, second)], images)
    assert second <= cost <= second * max(1, images / 8) + 1e-9


# Memory


def test_the_parts_add_up_to_the_peak_that_was_measured():
    plan = memory_plan(measured(), IMAGES, {"pool": 100_000}, gpu=False)
    assert (plan.program, plan.networks, plan.pool) == (200 * MB, 90 * MB, 10 * MB)
    assert plan.step == 10 * MB and plan.busiest == "synthesis"
    assert plan.total - plan.checkpoint == point().peaks["synthesis"]


def test_a_pool_at_its_largest_takes_the_place_of_the_one_that_was_measured():
    one, two = (memory_plan(measured(), IMAGES, {"pool": n}, gpu=False) for n in (0, 7 * MB))
    assert two.pool - one.pool == 700 * MB
    assert (one.step, one.networks) == (two.step, two.networks)


def test_a_checkpoint_counts_by_one_block_whatever_the_pool():
    plan = memory_plan(measured(), IMAGES, {"pool": 70 * MB}, gpu=False)
    assert plan.checkpoint == PIECE


def test_memory_of_larger_batches_lies_on_the_line_through_two_points():
    found = measured(point(2), point(4))
    plan = memory_plan(found, {**IMAGES, "synthesis": 100}, {}, gpu=False)
    assert plan.step == 100 * MB


def test_memory_that_an_allocator_kept_does_not_grow_with_the_batch():
    small, larger = (
        point(n, rises=dict.fromkeys(IMAGES, n * MB), peaks=dict.fromkeys(IMAGES, 700 * MB))
        for n in (2, 4)
    )
    plan = memory_plan(measured(small, larger), {**IMAGES, "synthesis": 100}, {}, gpu=False)
    assert plan.step == 400 * MB + 96 * MB


def test_on_a_gpu_that_is_not_here_a_steps_tensors_count_and_no_library():
    plan = memory_plan(measured(), IMAGES, {"pool": 100_000}, gpu=True)
    assert (plan.program, plan.checkpoint) == (0, 0)
    assert (plan.networks, plan.step, plan.pool) == (90 * MB, 10 * MB, 10 * MB)


def test_what_a_gpu_held_was_measured_there():
    peaks = {"synthesis": 500 * MB, "distillation": 400 * MB, "judging": 300 * MB}
    found = measured(point(device_peaks=peaks), on_gpu=True)
    assert memory_plan(found, IMAGES, {}, gpu=True).step == 400 * MB
    host = memory_plan(found, IMAGES, {"pool": 100}, gpu=False)
    assert (host.networks, host.pool, host.program) == (0, 0, 200 * MB)


def test_beside_a_gpu_that_is_not_here_the_host_holds_libraries_and_weights():
    plan = host_beside_a_gpu(measured())
    assert (plan.program, plan.networks, plan.step, plan.pool) == (200 * MB, 90 * MB, 0, 0)


# What successive halving is expected to run


def simulated(trials, epochs, rng):
    """The share of epochs that dfkd's ASHA runs of trials one by one, with random scores."""
    scheduler, run = make_scheduler("asha", epochs), 0
    for number in range(trials):
        trial = TuneTrial("dfkd", config={"id": f"t{number}"}, stub=True)
        scheduler.on_trial_add(None, trial)
        score = rng.random()
        for epoch in range(1, epochs + 1):
            run += 1
            if scheduler.on_trial_result(None, trial, {"epoch": epoch, "score": score}) == "STOP":
                break
    return run / (trials * epochs)


@pytest.mark.parametrize(("trials", "epochs"), [(8, 30), (64, 30), (16, 120), (16, 12)])
def test_the_expected_share_is_that_of_the_scheduler(trials, epochs):
    rng = random.Random(0)
    mean = sum(simulated(trials, epochs, rng) for _ in range(40)) / 40
    first = max(1, round(0.3 * epochs))
    assert asha_share(trials, epochs, first, 3) == pytest.approx(mean, abs=0.03)


@given(st.integers(1, 200), st.integers(1, 300))
def test_the_expected_share_is_a_share_and_no_less_than_the_first_rung(trials, epochs):
    first = max(1, round(0.3 * epochs))
    assert first / epochs <= asha_share(trials, epochs, first, 3) + 1e-9 <= 1 + 2e-9
