"""A sweep on a Ray cluster that runs already: sent, followed, left, stopped, resumed."""

from __future__ import annotations

import json
import sys

import pytest
from ray_head import ray_head
from ray_sweeps import Listener, local_ray, sweep_here, write_task

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.jobs import Detached, Job, follow
from dfkd.orchestrator.ray_jobs import RayJobs

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

OPTIONS = ("--trials", "1", "--no-control", "--select", "accuracy", "--scheduler", "fifo")
EPOCHS, STEPS = 20, 200  # some seconds: long enough to be stopped in the middle


def leave():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def here(tmp_path_factory, dfkd_cache):
    """The task, and the run folder of its sweep on a Ray of our own."""
    folder = tmp_path_factory.mktemp("here")
    task = write_task(folder, EPOCHS, STEPS)
    with local_ray(1):
        status, _, complained = sweep_here(task, folder, *OPTIONS)
    assert status == 0, complained
    return task, folder / "runs" / "s"


@pytest.fixture(scope="module")
def cluster(here):
    """A cluster of two CPUs that runs already; its teacher is cached."""
    with ray_head(2) as address:
        yield RayJobs(address=address, python=sys.executable)


class Story:
    """What happened to one sweep on the cluster, in the order of the test."""

    def __init__(self, cluster, task, folder):
        job = Job(name="s", storage=str(folder / "runs"), arguments=(task, *OPTIONS))
        self.run = folder / "runs" / "s"
        cluster.submit(job)
        with pytest.raises(Detached) as detached:
            follow(cluster, "s", Listener(epoch=3, act=leave))
        self.farewell = str(detached.value)
        self.left = cluster.state("s")
        with pytest.raises(ConfigError) as refused:
            cluster.submit(job)
        self.refusal = str(refused.value)
        cluster.stop("s")
        self.stopped = cluster.state("s")
        self.facts = json.loads((self.run / "sweep.json").read_text())
        cluster.submit(job)
        self.listener = Listener()
        self.ended = follow(cluster, "s", self.listener)


@pytest.fixture(scope="module")
def story(cluster, here, tmp_path_factory):
    return Story(cluster, here[0], tmp_path_factory.mktemp("there"))


def test_a_job_that_is_left_goes_on_and_can_be_found_again(story, cluster):
    assert story.left.status == "running"
    assert f"dfkd status s --watch --address {cluster.address}" in story.farewell
    assert f"dfkd stop s --address {cluster.address}" in story.farewell


def test_a_name_that_runs_cannot_be_used_again(story):
    assert "running already" in story.refusal


def test_a_stopped_job_has_saved_its_state(story):
    assert story.stopped.status == "stopped"
    assert story.facts["state"] == "interrupted"


def test_the_same_name_again_resumes_the_sweep(story):
    assert story.ended.status == "succeeded", story.ended.told
    assert 0 < story.listener.rows < EPOCHS


def test_the_student_is_byte_for_byte_that_of_a_local_sweep(story, here):
    weights = [folder / "best" / "model.safetensors" for folder in (story.run, here[1])]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_follower_knows_how_it_ended(story, here):
    there = json.loads((here[1] / "best" / "metrics.json").read_text())
    outcome = story.ended.outcome
    assert (outcome["best"], outcome["score"]) == (there["trial"], there["score"])
    assert outcome["exported"] == str(story.run / "best")


def test_the_job_runs_the_dfkd_that_sent_it(story):
    assert "py_modules_files" in story.facts["command"].split()[0]


def test_a_mistake_that_only_the_cluster_sees_comes_back(story, cluster, here):
    """The name is taken by a sweep with another seed."""
    arguments = (here[0], *OPTIONS, "--seed", "7")
    cluster.submit(Job(name="s", storage=str(story.run.parent), arguments=arguments))
    state = follow(cluster, "s", Listener())
    assert state.status == "failed"
    assert "taken by another sweep" in state.told
    assert state.outcome is None


def test_an_interpreter_that_is_not_there_is_told(cluster, tmp_path):
    astray = RayJobs(address=cluster.address, python="/nowhere/python")
    astray.submit(Job(name="astray", storage=str(tmp_path), arguments=("digits",)))
    state = follow(astray, "astray", Listener())
    assert state.status == "failed"
    assert "DFKD_CLUSTER_PYTHON" in state.told


def test_an_unknown_job_is_named_with_the_nearest(story, cluster):
    with pytest.raises(ConfigError, match=r"no job 'sx'.*Did you mean 's'"):
        cluster.state("sx")
