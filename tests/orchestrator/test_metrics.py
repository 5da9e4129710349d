"""A sweep's figures as Prometheus reads them, on a small Ray of this file's own."""

import re
import urllib.request

import pytest
from ray_sweeps import local_ray, sweep_here, wait_until, write_task

from dfkd.orchestrator import metrics
from dfkd.orchestrator.metrics import dashboard

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, dfkd_cache):
    """What a sweep said whose Ray passes for one with a dashboard, and what Prometheus reads."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "300")
        with local_ray(1) as ray:
            assert dashboard() is None
            patch.setattr(ray._private.worker._global_node, "_webui_url", "127.0.0.1:8265")
            task = write_task(folder, epochs=2)
            options = ("--trials", "1", "--no-control", "--select", "accuracy")
            status, said, complained = sweep_here(task, folder, *options, "--track", "tensorboard")
            assert status == 0, complained
            port = ray.nodes()[0]["MetricsExportPort"]
            wait_until(lambda: is_all_there(read(port)), 60)
            yield said, read(port), folder / "runs" / "s"


def read(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def is_all_there(text):
    """Whether the last epoch has arrived: Ray passes figures on now and then, not all at once."""
    counts = [samples(text, name) for name in ("dfkd_epoch", "dfkd_epochs_total")]
    return all(len(each) == 1 and each[0][1] == 2 for each in counts) and "time_share" in text


def samples(text, name):
    """A metric's values by their labels."""
    lines = re.findall(rf"^ray_{name}{{(.*)}} (\S+)$", text, re.M)
    return [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in lines]


def test_a_dashboard_is_linked(swept):
    assert "Ray's dashboard: http://127.0.0.1:8265" in swept[0]


@pytest.mark.parametrize("name", ["dfkd_accuracy", "dfkd_pool_bytes", "dfkd_images_per_second"])
def test_a_trials_figures_are_those_of_its_last_row(swept, name):
    ((labels, value),) = samples(swept[1], name)
    assert (labels["sweep"], labels["trial"], labels["method"]) == ("s", "t000", "nayer")
    assert value > 0


def test_epochs_are_counted(swept):
    assert [value for _, value in samples(swept[1], "dfkd_epoch")] == [2]
    assert [value for _, value in samples(swept[1], "dfkd_epochs_total")] == [2]


def test_time_shares_add_up_to_an_epoch_at_most(swept):
    shares = {labels["activity"]: value for labels, value in samples(swept[1], "dfkd_time_share")}
    assert set(shares) == set(metrics.ACTIVITIES) and 0.5 < sum(shares.values()) < 1.01


def test_a_tracked_sweep_leaves_its_logs_in_its_folder(swept):
    assert list((swept[2] / "tracking" / "tensorboard" / "t000").glob("events*"))
