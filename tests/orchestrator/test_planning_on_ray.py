"""A plan for a cluster: it is joined, looked at, and one of its workers measures."""

import pytest
from ray_sweeps import local_ray, write_task

from dfkd.orchestrator.planning import make_plan
from dfkd.orchestrator.requests import SweepRequest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("dfkd_cache")]


@pytest.mark.timeout(400)  # workers import everything, and so does what they start to measure
def test_a_plan_for_a_cluster_tells_what_the_cluster_has_and_is_measured_there(tmp_path):
    task = write_task(tmp_path)
    with local_ray(cpus=2):
        _, plan = make_plan(SweepRequest(task=task, trials=8), lambda text: None)
        _, large = make_plan(SweepRequest(task=task, cpus_per_worker=3), lambda text: None)
    (node,) = plan.inventory.nodes
    assert (node.cpus, plan.at_once) == (2, 2) and node.store > 0
    assert plan.methods[0].measured.steps["distillation"] > 0
    assert plan.bound.cpu_hours > 0
    assert large.at_once == 0 and "no worker of the cluster" in large.methods[0].failed
    assert any("no trial fits" in warning for warning in large.warnings)
