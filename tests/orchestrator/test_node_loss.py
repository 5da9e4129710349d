"""Nodes of the cluster die in the middle of a sweep, and others join: trials go on elsewhere."""

from __future__ import annotations

import shlex
import sys

import pytest
from ray_sweeps import Listener, quiet, write_task

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]

EPOCHS = 12
LONG = 150  # steps per epoch: a second or so is left of a trial when its node is lost
QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}


class Saboteur(Listener):
    """Ends a node, without warning, once two trials have been running for a few epochs."""

    def __init__(self, end_node):
        super().__init__()
        self.end_node = end_node
        self.epochs = {}

    def epoch_ended(self, spec, row):
        self.epochs[spec.id] = row["epoch"]
        if self.end_node and len(self.epochs) == 2 and min(self.epochs.values()) >= 3:
            self.end_node()
            self.end_node = None


class Autoscaler(Listener):
    """Adds a node to a cluster as soon as something waits for room."""

    def __init__(self, cluster, cpus=1):
        super().__init__()
        self.cluster = cluster
        self.cpus = cpus
        self.added = None
        self.rows_before = 0

    def look(self):
        from ray.util import placement_group_table

        states = {group["state"] for group in placement_group_table().values()}
        if self.added is None and "PENDING" in states:
            self.added = self.cluster.add_node(num_cpus=self.cpus)
            self.rows_before = self.rows

    def tick(self):
        self.look()


@pytest.fixture(scope="module")
def head(dfkd_cache):
    """A cluster of one node of one CPU, in processes of its own, without a dashboard."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "_system_config": QUICK_TO_NOTICE, "include_dashboard": False}
    with quiet():
        cluster = Cluster(initialize_head=True, head_node_args=node)
        workers = {"py_executable": shlex.quote(sys.executable)}  # started by a shell command
        ray.init(address=cluster.address, log_to_driver=False, runtime_env=workers)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def two_nodes(head):
    """A second node of one CPU beside the head, and how to end it."""
    second = head.add_node(num_cpus=1)
    head.wait_for_nodes()
    return lambda: head.remove_node(second, allow_graceful=False)


def test_a_two_worker_trial_on_a_lost_node_goes_on_where_there_is_room(two_nodes, tmp_path):
    from dfkd.orchestrator import sweep

    saboteur = Saboteur(two_nodes)
    result = sweep(
        write_task(tmp_path, EPOCHS, kd_steps=LONG),
        trials=2,
        workers=2,
        cpus_per_worker=0.49,
        scheduler="fifo",
        control=False,
        storage=str(tmp_path),
        watcher=saboteur,
    )
    assert saboteur.end_node is None, "the node was never ended, so nothing was tested"
    assert [record.outcome for record in result.records] == ["finished", "finished"]
    for record in result.records:
        assert [row["epoch"] for row in record.rows] == list(range(1, EPOCHS + 1))


def test_the_shards_of_a_lost_node_are_gone_and_its_trial_goes_on(two_nodes, tmp_path):
    from dfkd.orchestrator import sweep

    saboteur = Saboteur(two_nodes)
    result = sweep(
        write_task(tmp_path, EPOCHS, kd_steps=LONG),
        trials=3,
        share_pools="teacher",
        scheduler="fifo",
        control=False,
        storage=str(tmp_path),
        watcher=saboteur,
    )
    assert saboteur.end_node is None, "the node was never ended, so nothing was tested"
    assert [record.outcome for record in result.records] == ["finished"] * 3
    for record in result.records:
        assert [row["epoch"] for row in record.rows] == list(range(1, EPOCHS + 1))
    drawn = [sum(row["images_drawn"] for row in record.rows) for record in result.records]
    assert sum(drawn) > 0
    assert any("drawn from other trials" in remark for remark in saboteur.said)


def test_a_cluster_grows_for_the_trials_that_wait_and_its_new_node_is_used(head, tmp_path):
    from ray.util import placement_group_table

    from dfkd.orchestrator import sweep

    autoscaler = Autoscaler(head)
    result = sweep(
        write_task(tmp_path, EPOCHS, kd_steps=2 * LONG),
        trials=2,
        scheduler="fifo",
        select="accuracy",
        control=False,
        storage=str(tmp_path),
        watcher=autoscaler,
    )
    assert any("room for 2 trials at a time" in remark for remark in autoscaler.said)
    assert autoscaler.rows_before < EPOCHS, "it was asked for only when the first trial had ended"
    first, second = (record.rows for record in result.records)
    assert second[0]["began"] < first[-1]["ended"], "they did not run at the same time"
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}
    head.remove_node(autoscaler.added, allow_graceful=False)


def test_a_sweep_waits_for_the_first_node_that_has_room_having_asked_for_it(head):
    from dfkd.orchestrator.clusters import Resources
    from dfkd.orchestrator.room import Room

    autoscaler, told = Autoscaler(head, cpus=4), []

    def say(text):
        told.append(text)
        autoscaler.look()

    assert Room(Resources(workers=2, cpus_per_worker=2.0)).wait(say, patience=60) == 1
    assert "waiting for room: a trial needs 2 times 2 CPU" in told[0]
    head.remove_node(autoscaler.added, allow_graceful=False)
