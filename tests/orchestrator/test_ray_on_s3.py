"""A sweep on Ray whose run folder lies on S3, where requests fail now and then."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from ray_sweeps import local_ray, write_task
from s3_server import now_and_then

pytest_plugins = ["s3_server"]
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def own_ray(dfkd_cache, s3_server):
    """A Ray of one CPU in this process, whose workers know the server's credentials."""
    with local_ray(1) as ray:
        yield ray


def test_a_sweep_on_ray_leaves_the_student_that_its_trial_makes_anywhere(own_ray, s3, tmp_path):
    from dfkd.orchestrator import sweep
    from dfkd.orchestrator.trials import run_trial

    with s3.failing(now_and_then(0.03, "busy", "broken", "reset")):
        result = sweep(
            write_task(tmp_path),
            trials=2,
            concurrent=1,
            scheduler="fifo",
            select="accuracy",
            control=False,
            storage=s3.uri("on-ray"),
            name="s",
        )
    assert [record.outcome for record in result.records] == ["finished", "finished"]
    exported = safetensors.torch.load(result.exported.read("model.safetensors"))
    here = run_trial(result.best.spec, result.run.surroundings()).student.network.state_dict()
    assert all(torch.equal(exported[name], here[name]) for name in here)
    assert result.run.folder.read("lease.json") is None
