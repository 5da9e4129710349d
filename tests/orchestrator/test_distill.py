import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from small_tasks import EPOCHS, contents, tree, untimed, write_task

from dfkd.methods.errors import ConfigError, SweepFailed
from dfkd.orchestrator import distill, resume
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.sweeps import SweepInterrupted
from dfkd.orchestrator.watching import Silent

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache")


class Events(Silent):
    """Notes what happens, and can press Ctrl-C after an epoch."""

    def __init__(self, interrupt_after=None):
        self.seen = []
        self.rows = []
        self.remarks = []
        self.interrupt_after = interrupt_after

    def say(self, text):
        self.remarks.append(text)

    def sweep_started(self, sweep, known):
        self.seen.append("sweep started")

    def trial_started(self, spec):
        self.seen.append("trial started")

    def epoch_ended(self, spec, row):
        self.seen.append("epoch")
        self.rows.append(row)
        if row["epoch"] == self.interrupt_after:
            raise KeyboardInterrupt

    def trial_ended(self, record):
        self.seen.append(f"trial {record.outcome}")

    def sweep_ended(self):
        self.seen.append("sweep ended")


@pytest.fixture
def storage(tmp_path):
    return str(tmp_path / "storage")


def interrupted(task, storage, epoch, **options):
    """The run that Ctrl-C left after an epoch."""
    with pytest.raises(SweepInterrupted) as interruption:
        distill(task, storage=storage, watcher=Events(interrupt_after=epoch), **options)
    return interruption.value.run


# From start to end


def test_a_student_that_is_given_time_learns(stripes_file, storage):
    result = distill(stripes_file, storage=storage, settings={"kd_steps": 60}, epochs=8)
    assert max(row["accuracy"] for row in result.best.rows) > 0.6


def test_the_best_trial_is_the_only_one(done):
    assert [record.spec.id for record in done.records] == ["t000"]
    assert done.best == done.records[0]


def test_the_trial_has_all_its_epochs(done):
    assert [row["epoch"] for row in done.best.rows] == list(range(1, EPOCHS + 1))


def test_the_recipe_is_the_tasks_own(done, stripes_task):
    assert done.best.spec.recipe == stripes_task.space("nayer").recipe


def test_the_run_folder_says_that_it_is_finished(done):
    facts = done.run.facts()
    assert (facts["state"], facts["best"]["trial"]) == ("finished", "t000")


def test_the_results_hold_every_epoch(done):
    rows = pq.read_table(done.run.folder.local / "results.parquet").to_pylist()
    assert [(row["trial"], row["epoch"]) for row in rows] == [
        ("t000", epoch) for epoch in range(1, EPOCHS + 1)
    ]


def test_the_run_folder_holds_what_it_promises(done):
    kept = {name for name in contents(done.run.folder.local) if not name.startswith(".")}
    assert kept == {
        "sweep.json",
        "teacher.safetensors",
        "controls.safetensors",
        "jury.json",
        "results.parquet",
        *(f"best/{name}" for name in done.exported.files()),
        *(
            f"trials/t000/{name}"
            for name in (
                "recipe.json",
                "checkpoint.pt",
                "history.json",
                "student.safetensors",
                "probes.safetensors",
                "result.json",
            )
        ),
    }


def test_everything_is_told_in_order(stripes_file, storage):
    events = Events()
    distill(stripes_file, storage=storage, watcher=events)
    assert events.seen == [
        "sweep started",
        "trial started",
        *["epoch"] * EPOCHS,
        "trial finished",
        "sweep ended",
    ]


def test_the_same_call_gives_the_same_student(done, stripes_file, storage):
    again = distill(stripes_file, storage=storage)
    assert untimed(again.best.rows) == untimed(done.best.rows)


def test_a_copy_goes_where_it_is_asked_for(stripes_file, storage, tmp_path):
    result = distill(stripes_file, storage=storage, export_dir=str(tmp_path / "here"))
    assert contents(tmp_path / "here") == contents(result.exported.local)


def test_other_images_can_be_given(stripes_file, storage, done):
    data = str(Path(stripes_file).with_name("stripes.npz"))
    assert (
        distill(stripes_file, storage=storage, data=data).best.rows[-1]["accuracy"]
        == (done.best.rows[-1]["accuracy"])
    )


def test_digits_are_told_apart_far_better_than_by_noise(shipped_digits_teacher, storage):
    learning = {"warmup": 2, "kd_steps": 40}
    synthesis = {"synthesis_steps": 6, "batch_size": 50, "warmup_rounds": 3}
    options = {"epochs": 6, "select": "accuracy", "storage": storage}
    nayer = distill("digits", settings=learning | synthesis, **options)
    noise = distill("digits", methods=("noise",), settings=learning, **options)
    assert nayer.best.best["accuracy"] > noise.best.best["accuracy"] + 0.2


# Interrupted


@pytest.mark.parametrize("epoch", [1, 2, EPOCHS])
def test_the_same_call_resumes_and_gives_the_same_rows(done, stripes_file, storage, epoch):
    interrupted(stripes_file, storage, epoch)
    resumed = distill(stripes_file, storage=storage)
    assert untimed(resumed.best.rows) == untimed(done.best.rows)


def test_the_same_call_resumes_in_the_same_folder_and_says_so(stripes_file, storage):
    run = interrupted(stripes_file, storage, 2)
    events = Events()
    assert distill(stripes_file, storage=storage, watcher=events).run == run
    assert run.name in events.remarks[0]


def test_a_resumed_run_exports_the_same_student(done, stripes_file, storage):
    interrupted(stripes_file, storage, 2)
    resumed = distill(stripes_file, storage=storage)
    one, two = (load_file(r.exported.local / "model.safetensors") for r in (resumed, done))
    assert all((one[name] == two[name]).all() for name in two)


def test_an_interrupted_run_can_be_resumed_by_its_name(done, stripes_file, storage):
    run = interrupted(stripes_file, storage, 2)
    assert untimed(resume(run.name, storage).best.rows) == untimed(done.best.rows)


def test_a_resumed_run_does_not_repeat_what_was_saved(stripes_file, storage):
    interrupted(stripes_file, storage, 3)
    events = Events()
    distill(stripes_file, storage=storage, watcher=events)
    assert 1 not in [row["epoch"] for row in events.rows]


def test_rows_that_outran_their_checkpoint_are_not_repeated(done, stripes_file, storage):
    """As a crash between the two writes of a save leaves them."""
    run = interrupted(stripes_file, storage, 1)
    run.trial_folder("t000").write_json("history.json", done.best.rows[:3])
    resumed = distill(stripes_file, storage=storage)
    assert untimed(resumed.best.rows) == untimed(done.best.rows)


def test_an_interrupted_run_says_so(stripes_file, storage):
    assert interrupted(stripes_file, storage, 2).facts()["state"] == "interrupted"


def test_an_interrupted_run_has_results_so_far(stripes_file, storage):
    run = interrupted(stripes_file, storage, 2)
    rows = pq.read_table(run.folder.local / "results.parquet").to_pylist()
    assert [row["epoch"] for row in rows] == [1, 2]


def test_an_interruption_is_the_end_that_watchers_see(stripes_file, storage):
    events = Events(interrupt_after=1)
    with pytest.raises(SweepInterrupted):
        distill(stripes_file, storage=storage, watcher=events)
    assert events.seen[-1] == "sweep ended"


def test_an_interruption_says_how_to_go_on(stripes_file, tmp_path):
    with pytest.raises(SweepInterrupted, match=r"dfkd resume mine --storage '.*my runs'"):
        distill(
            stripes_file,
            storage=str(tmp_path / "my runs"),
            name="mine",
            watcher=Events(interrupt_after=1),
        )


def test_an_interrupted_run_is_free_for_others(stripes_file, storage):
    assert not interrupted(stripes_file, storage, 2).is_running()


def test_a_finished_run_is_not_run_again(stripes_file, storage):
    first = distill(stripes_file, storage=storage, name="mine")
    events = Events()
    second = distill(stripes_file, storage=storage, name="mine", watcher=events)
    assert "epoch" not in events.seen
    assert second.best == first.best


def test_a_run_can_be_resumed_from_another_folder(stripes_file, storage, tmp_path, monkeypatch):
    write_task(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = interrupted("stripes.yaml", storage, 2)
    monkeypatch.chdir("/")
    assert resume(run.name, storage).best.outcome == "finished"


# Mistakes


def test_a_name_that_is_taken_is_refused_and_nothing_is_overwritten(stripes_file, storage):
    run = distill(stripes_file, storage=storage, name="mine").run
    before = contents(run.folder.local)
    with pytest.raises(ConfigError, match="the name mine is taken"):
        distill(stripes_file, storage=storage, name="mine", seed=1)
    assert contents(run.folder.local) == before


@pytest.mark.parametrize("methods", [(), ("nayer", "noise")])
def test_one_method_must_be_named(stripes_file, storage, methods):
    with pytest.raises(ConfigError, match="one method"):
        distill(stripes_file, storage=storage, methods=methods)


@pytest.mark.parametrize(
    "options", [{"methods": ("nayr",)}, {"settings": {"kd_steps": 0}}, {"epochs": 0}], ids=str
)
def test_a_mistake_leaves_no_run(stripes_file, storage, options):
    with pytest.raises(ConfigError):
        distill(stripes_file, storage=storage, **options)
    assert not Path(storage).exists()


def test_label_embeddings_that_are_not_there_leave_no_run(storage, tmp_path):
    with pytest.raises(ConfigError):
        distill(write_task(tmp_path, {"embeddings": "minilms"}), storage=storage)
    assert not Path(storage).exists()


def test_a_place_to_export_to_is_tried_before_the_run(stripes_file, storage, tmp_path):
    (tmp_path / "file").touch()
    events = Events()
    with pytest.raises(ConfigError):
        distill(
            stripes_file, storage=storage, export_dir=str(tmp_path / "file" / "x"), watcher=events
        )
    assert not events.seen


def test_storage_that_cannot_be_written_is_refused(stripes_file, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        distill(stripes_file, storage=str(tmp_path / "file" / "runs"), name="mine")


# Trials that fail

WILD = {"student_lr": 1e30, "clip_norm": 0}


def test_a_sweep_whose_every_trial_failed_says_why(stripes_file, storage):
    with pytest.raises(SweepFailed, match=r"every trial failed: .*student_lr"):
        distill(stripes_file, storage=storage, settings=WILD)


def test_a_failed_run_says_so(stripes_file, storage):
    with pytest.raises(SweepFailed):
        distill(stripes_file, storage=storage, settings=WILD, name="wild")
    facts = Run(Folder.of(storage).child("wild")).facts()
    assert facts["state"] == "failed"
    assert "student_lr" in facts["error"]


def test_a_failed_trial_is_told_as_such(stripes_file, storage):
    events = Events()
    with pytest.raises(SweepFailed):
        distill(stripes_file, storage=storage, settings=WILD, watcher=events)
    assert events.seen[-2:] == ["trial failed", "sweep ended"]


def test_a_run_that_failed_is_not_taken_for_an_interrupted_one(stripes_file, storage):
    """Once its cause is gone (a full disk, say), the same call must have a chance."""
    run = interrupted(stripes_file, storage, 1)
    record = run.records()[0]
    run.end_trial(replace(record, outcome="failed", reason="the disk is full"))
    run.note(state="failed")
    assert distill(stripes_file, storage=storage).best.outcome == "finished"


def test_a_task_file_may_change_once_its_run_has_begun(done, storage, tmp_path):
    """The run folder holds the task as it was."""
    path = write_task(tmp_path / "task")
    run = interrupted(path, storage, 2)
    Path(path).write_text(json.dumps(tree({"recipe.kd_steps": 1})))
    assert untimed(resume(run.name, storage).best.rows) == untimed(done.best.rows)
