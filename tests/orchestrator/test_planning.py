"""A sweep's plan: put together, told, and warned of. What is measured is written by hand here."""

import io
import json
import socket
from dataclasses import replace

import pytest
from measurements import MB, FakeMeter, measured, point
from rich.console import Console
from small_tasks import contents, write_task

from dfkd.orchestrator import plan_rendering, planning
from dfkd.orchestrator.clusters import Resources
from dfkd.orchestrator.inventory import Inventory, Node
from dfkd.orchestrator.meters import NotMeasured
from dfkd.orchestrator.planning import plan_of
from dfkd.orchestrator.requests import SweepRequest, plan_sweep
from dfkd.search_spaces.preparations import preparation
from dfkd.search_spaces.task import load_task

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache")

GB = 1000 * MB
NODE = Node(cpus=4, memory=16 * GB, store=4 * GB)
WITH_GPUS = replace(NODE, gpus=2.0, gpu_names=("H100",), gpu_memory=80 * GB)


def planned(task, *nodes, found=None, **options):
    """The plan of a sweep on these machines, of which `found` was measured, or why not."""

    def measure(*order):
        if isinstance(found, str):
            raise NotMeasured(found)
        return found or measured()

    request = SweepRequest(task=task, **options)
    inventory = Inventory(where="here", nodes=nodes or (NODE,))
    return plan_of(request, plan_sweep(request), inventory, measure, lambda text: None)


def shown(plan):
    console = Console(file=io.StringIO(), width=250)
    for part in plan_rendering.told(plan):
        console.print(part, soft_wrap=isinstance(part, str))
    return console.file.getvalue()


# Put together


def test_as_many_trials_run_at_once_as_fit_or_as_were_asked_for(stripes_file):
    assert planned(stripes_file).at_once == 4
    assert planned(stripes_file, concurrent=3).at_once == 3
    assert planned(stripes_file, trials=1, control=False).at_once == 1
    assert planned(stripes_file, cpus_per_worker=2.0).at_once == 2


def test_methods_have_the_trials_that_are_dealt_to_them(stripes_file):
    plan = planned(stripes_file, trials=5, methods=("nayer", "dafl"))
    assert [(trial.method, trial.trials) for trial in plan.methods] == [("nayer", 3), ("dafl", 2)]


def test_no_scheduler_runs_more_than_the_bound(stripes_file):
    asha, fifo = (planned(stripes_file, scheduler=name) for name in ("asha", "fifo"))
    assert asha.bound == fifo.bound == fifo.expected
    assert asha.expected.cpu_hours < asha.bound.cpu_hours
    assert planned(stripes_file, scheduler="median").expected is None


def test_cpu_hours_count_all_workers_and_their_cores(stripes_file):
    one = planned(stripes_file, control=False)
    four = planned(stripes_file, control=False, cpus_per_worker=4.0)
    assert four.bound.cpu_hours == pytest.approx(4 * one.bound.cpu_hours)


def test_what_was_measured_on_a_cpu_says_nothing_about_a_gpus_hours(stripes_file):
    plan = planned(stripes_file, WITH_GPUS, gpus_per_worker=1.0)
    assert plan.methods[0].timed_elsewhere
    assert plan.bound is None and plan.expected is None
    assert "what they take there in time is unknown" in shown(plan)
    assert "GPU-hours, are unknown" in shown(plan)


def test_what_was_measured_on_a_gpu_gives_its_hours(stripes_file):
    peaks = dict.fromkeys(("synthesis", "distillation", "judging"), 500 * MB)
    found = measured(point(device_peaks=peaks), on_gpu=True, device="H100")
    plan = planned(stripes_file, WITH_GPUS, gpus_per_worker=0.5, found=found)
    assert plan.bound.gpu_hours == pytest.approx(plan.bound.cpu_hours / 2) and plan.at_once == 4
    assert "GPU-hours" in shown(plan)


def test_what_cannot_be_measured_is_told_with_its_reason_and_nothing_is_invented(stripes_file):
    plan = planned(stripes_file, found="it ended without a word")
    assert plan.bound is None and plan.methods[0].time is None
    assert "nothing could be measured: it ended without a word" in shown(plan)


def test_the_pool_at_its_largest_is_that_of_the_largest_values_searched(tmp_path):
    search = {"methods.nayer.search.batch_size": [10, 40]}
    (trial,) = planned(write_task(tmp_path, search)).methods
    assert trial.largest_pool == pytest.approx(4 * trial.pool, rel=0.05)
    assert "batch_size: 10, 40" in shown(planned(write_task(tmp_path, search)))


# Warned of


def test_a_plan_that_fits_warns_of_nothing(stripes_file):
    assert planned(stripes_file).warnings == ()


def test_trials_at_once_that_take_more_memory_than_there_is_are_warned_of(stripes_file):
    (warning,) = planned(stripes_file, replace(NODE, memory=1200 * MB, store=0)).warnings
    assert "memory: 4 workers" in warning and "--concurrent 3 would fit" in warning


def test_a_trial_larger_than_the_machine_is_warned_of(stripes_file):
    (warning,) = planned(stripes_file, replace(NODE, memory=100 * MB, store=0)).warnings
    assert "not one trial fits" in warning


def test_too_few_gpus_for_one_trial_are_warned_of(stripes_file):
    plan = planned(stripes_file, gpus_per_worker=1.0)
    assert plan.at_once == 0
    assert any("no trial fits" in warning and "0 GPU" in warning for warning in plan.warnings)


def test_gpus_that_nobody_would_use_are_pointed_out(stripes_file):
    assert any("--gpus-per-worker 1" in text for text in planned(stripes_file, WITH_GPUS).warnings)


def test_workers_that_share_a_gpu_must_fit_into_its_memory_together(stripes_file):
    small = replace(WITH_GPUS, gpu_memory=150 * MB)
    alone, shared = (
        planned(stripes_file, small, gpus_per_worker=share).warnings for share in (1.0, 0.5)
    )
    assert not any("GPU memory" in warning for warning in alone)
    assert any("GPU memory: 2 worker(s)" in warning for warning in shared)


def test_too_little_disk_is_warned_of(stripes_file, monkeypatch):
    monkeypatch.setattr(planning, "_free", lambda folder: 1000)
    assert any(
        "storage:" in text and "--storage" in text for text in planned(stripes_file).warnings
    )


def test_a_budget_beyond_the_object_store_is_warned_of(stripes_file):
    plan = planned(stripes_file, share_pools="teacher", pool_budget="5GB")
    assert any("spilled to disk" in warning for warning in plan.warnings)


def test_a_budget_that_holds_too_little_is_warned_of(stripes_file):
    plan = planned(stripes_file, share_pools="teacher", pool_budget="1kB")
    assert any("older ones will give way" in warning for warning in plan.warnings)


@pytest.mark.parametrize(("mode", "told"), [("off", "its own"), ("teacher", "each other's")])
def test_it_is_told_what_is_shared(stripes_file, mode, told):
    assert told in shown(planned(stripes_file, share_pools=mode))


# Told


def test_everything_that_a_team_decides_by_is_shown(stripes_file, tmp_path, monkeypatch):
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "cache"))  # where no teacher was trained yet
    text = shown(planned(stripes_file, trials=64, name="mine", storage=str(tmp_path)))
    for words in (
        "4 trials at once",
        "measured 8 steps of synthesis",
        "on CPU, 1 thread",
        "the pool at its largest",
        "64 trials and the control, if none is stopped",
        "expected of asha",
        "CPU-hours",
        "trials/*/checkpoint.pt",
        "would be trained first",
        str(tmp_path / "mine"),
    ):
        assert words in text


def test_the_json_has_what_is_shown(stripes_file):
    plan = planned(stripes_file)
    tree = json.loads(json.dumps(plan_rendering.as_json(plan)))
    (method,) = tree["methods"]
    assert tree["at_once"] == 4 and tree["warnings"] == []
    assert method["host"]["total"] == plan.methods[0].host.total
    assert method["time"]["trial"] == plan.methods[0].time.trial
    assert tree["bound"]["cpu_hours"] == plan.bound.cpu_hours
    assert tree["written"] == sum(file["bytes"] for file in tree["writes"])


# ImageNet, offline


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and no weights that were downloaded before."""

    def refuse(*address, **more):
        raise AssertionError("a plan needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def test_imagenet_is_planned_offline_and_says_what_would_be_downloaded(
    offline, tmp_path, monkeypatch
):
    monkeypatch.setattr(planning, "Meter", FakeMeter)
    said = []
    parts, facts = plan_rendering.dry_run(
        SweepRequest(task="imagenet", trials=64, storage=str(tmp_path / "runs")), said.append
    )
    assert said == ["measuring a few steps of nayer"]
    assert "resnet34-b627a593.pth (83 MB)" in facts["plan"]["teacher"]
    assert any("would be downloaded first" in part for part in parts if isinstance(part, str))
    assert not contents(tmp_path)


def test_a_tag_that_nobody_published_is_refused_by_a_plan_too():
    with pytest.raises(Exception, match="IMAGENET1K_V9"):
        plan_sweep(SweepRequest(task="imagenet", teacher="torchvision/resnet34:IMAGENET1K_V9"))


def test_weights_that_were_downloaded_are_at_hand(offline, tmp_path):
    where = tmp_path / "torch" / "hub" / "checkpoints" / "resnet34-b627a593.pth"
    assert "would be downloaded" in preparation(load_task("imagenet"))
    where.parent.mkdir(parents=True)
    where.touch()
    assert "is at hand" in preparation(load_task("imagenet"))


def test_a_trained_teacher_is_at_hand(stripes_task, stripes_teacher):
    assert "is at hand" in preparation(stripes_task)


def test_a_worker_counts_where_it_fits_whole():
    inventory = Inventory(where="here", nodes=(NODE, NODE))
    assert inventory.fitting(Resources(cpus_per_worker=3)) == 2
    assert inventory.fitting(Resources(workers=4, cpus_per_worker=2)) == 1
