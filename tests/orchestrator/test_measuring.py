"""A few steps, timed and weighed in processes of their own."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.estimates import memory_plan
from dfkd.orchestrator.gauges import peak, reset_peak, resident
from dfkd.orchestrator.meters import Meter, NotMeasured, measured_from_json
from dfkd.orchestrator.requests import SweepRequest, plan_sweep
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder

pytest_plugins = ["small_task_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("dfkd_cache")]

PLENTY = 4_000_000_000
TRUTH = """
import json, sys
from dfkd.orchestrator import trial_actor  # what a Ray worker has imported
from dfkd.orchestrator.gauges import peak
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import run_trial
import torch
torch.set_num_threads(1)
run = Run(Folder(sys.argv[1]))
run_trial(run.trial_spec("t000"), run.surroundings(), run.trial_folder("t000"))
print(json.dumps(peak()))
"""
LARGER = {"batch_size": 600, "generator_width": 32, "kd_batch_size": 400}


@pytest.fixture(scope="module")
def sweep(stripes_file):
    """A sweep of one trial whose steps take some 200 MB."""
    request = SweepRequest(task=stripes_file, select="accuracy", settings=LARGER)
    return plan_sweep(request)


@pytest.fixture(scope="module")
def found(sweep):
    """What a meter measures of it."""
    with Meter() as meter:
        return meter.measure(sweep, sweep.trial("t000", "nayer", {}), Resources(), 20.0, PLENTY)


def test_a_trials_peak_is_within_a_fifth_of_what_was_planned(sweep, found, tmp_path):
    run = Run(Folder(str(tmp_path / "run")))
    run.create(sweep)
    run.propose(sweep.trial("t000", "nayer", {}))
    ran = subprocess.run(
        [sys.executable, "-c", TRUTH, run.folder.uri], capture_output=True, text=True, check=True
    )
    images = {"synthesis": 600, "distillation": 400, "judging": 60}
    plan = memory_plan(found, images, {"pool": 600 * 5, "aside": 300}, gpu=False)
    assert plan.total == pytest.approx(json.loads(ran.stdout), rel=0.2)


def test_small_steps_are_measured_at_their_real_size(found):
    assert found.points[-1].images == {"synthesis": 600, "distillation": 400, "judging": 60}
    assert found.steps["synthesis"] > 1 and found.steps["distillation"] > 1
    assert not found.on_gpu or found.points[-1].device_peaks


def test_steps_that_would_take_too_long_are_measured_at_two_smaller_sizes(sweep):
    with Meter() as meter:
        trial = sweep.trial("t000", "nayer", {})
        brief = meter.measure(sweep, trial, Resources(), 1.0, PLENTY)
    sizes = [point.images["synthesis"] for point in brief.points]
    assert sizes == sorted(set(sizes)) and sizes[-1] <= 600


def test_steps_that_would_take_too_much_memory_are_measured_smaller(sweep):
    with Meter() as meter:
        trial = sweep.trial("t000", "nayer", {})
        small = meter.measure(sweep, trial, Resources(), 20.0, 50_000_000)
    assert small.points[-1].images["synthesis"] < 600


def test_what_was_measured_survives_json(found):
    assert measured_from_json(json.loads(json.dumps(asdict(found)))) == found


def test_a_trial_that_fails_is_told_of_and_the_meter_goes_on(sweep):
    wrong = sweep.trial("t000", "nayer", {"generator_width": "many"})
    with Meter() as meter:
        with pytest.raises(NotMeasured, match="generator_width"):
            meter.measure(sweep, wrong, Resources(), 5.0, PLENTY)
        right = sweep.trial("t001", "nayer", {"batch_size": 10})
        assert meter.measure(sweep, right, Resources(), 5.0, PLENTY).points


def test_a_peak_can_be_forgotten():
    block = bytearray(80_000_000)
    high = peak()
    del block
    reset_peak()
    if peak() == high:
        pytest.skip("this system cannot forget a peak")
    assert abs(peak() - resident()) < 20_000_000
