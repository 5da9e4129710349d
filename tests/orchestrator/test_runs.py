import contextlib
import json
import os
import signal
import time

import pyarrow.parquet as pq
import pytest
import yaml
from small_tasks import EPOCHS, STRIPES, contents, plan, tree, write_task

from dfkd.methods.errors import ConfigError, DfkdError
from dfkd.orchestrator.requests import SweepRequest, choose_run
from dfkd.orchestrator.runs import RESULTS, TEACHER, Run, TrialRecord, find_runs
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import HISTORY

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache")


@pytest.fixture(scope="module")
def sweep(stripes_file, dfkd_cache):
    return plan(stripes_file)


@pytest.fixture
def storage(tmp_path):
    return Folder.of(str(tmp_path / "storage"))


@pytest.fixture
def run(storage):
    return Run(storage.child("mine"))


@pytest.fixture
def created(run, sweep):
    run.create(sweep, command="dfkd sweep")
    return run


def rows(trial, count, score=0.5):
    return tuple({"trial": trial, "epoch": e, "score": score} for e in range(1, count + 1))


# One sweep per folder


def test_a_folder_without_a_sweep_is_named(run):
    with pytest.raises(ConfigError, match="no sweep in") as refusal:
        run.facts()
    assert run.folder.uri in str(refusal.value)


def test_a_new_run_is_running(created):
    assert created.facts()["state"] == "running"


def test_a_run_remembers_what_made_it(created, sweep):
    facts = created.facts()
    assert facts["definition"] == sweep.definition()
    assert facts["fingerprint"] == sweep.fingerprint()
    assert facts["command"] == "dfkd sweep"


@pytest.mark.parametrize("package", ["dfkd", "python", "torch", "ray"])
def test_a_run_knows_the_versions_behind_its_numbers(created, package):
    assert created.facts()["versions"][package]


def test_facts_are_added(created):
    created.note(state="finished", best={"trial": "t000"})
    facts = created.facts()
    assert (facts["state"], facts["best"], facts["name"]) == ("finished", {"trial": "t000"}, "mine")


def test_the_same_sweep_goes_on_in_its_folder(created, sweep):
    before = created.facts()
    created.note(state="interrupted")
    created.create(sweep, command="dfkd resume")
    after = created.facts()
    assert (after["state"], after["command"]) == ("running", "dfkd resume")
    assert after["created"] == before["created"]


def test_another_sweep_is_refused_with_what_differs(created, stripes_file):
    other = plan(stripes_file, epochs=EPOCHS + 1, seed=3)
    with pytest.raises(ConfigError, match=r"epochs, seed; choose another --name"):
        created.create(other)


def test_another_sweep_overwrites_nothing(created, stripes_file):
    created.propose(plan(stripes_file).trial("t000", "nayer", {}))
    before = contents(created.folder.local)
    with pytest.raises(ConfigError):
        created.create(plan(stripes_file, seed=3))
    assert contents(created.folder.local) == before


def test_a_run_stands_alone(created, stripes_surroundings):
    """Its folder holds all that a trial needs beside its spec."""
    surroundings = created.surroundings()
    assert surroundings.task == stripes_surroundings.task
    assert surroundings.teacher.fingerprint == stripes_surroundings.teacher.fingerprint


def test_a_run_without_its_teacher_says_so(created):
    (created.folder.local / TEACHER).unlink()
    with pytest.raises(DfkdError, match=TEACHER):
        created.surroundings()


# Trials of a run


def test_a_proposed_trial_is_known_before_it_runs(created, sweep):
    spec = sweep.trial("t000", "nayer", {"temperature": 2.0})
    created.propose(spec)
    assert created.records() == [TrialRecord(spec=spec)]
    assert created.trial_spec("t000") == spec


def test_a_trial_that_nobody_proposed_is_missing(created):
    with pytest.raises(DfkdError, match="t999"):
        created.trial_spec("t999")


@pytest.mark.parametrize(
    ("outcome", "reason"), [("finished", ""), ("stopped", ""), ("failed", "no room")]
)
def test_an_ended_trial_is_read_back(created, sweep, outcome, reason):
    record = TrialRecord(
        spec=sweep.trial("t000", "nayer", {}),
        rows=rows("t000", 3),
        outcome=outcome,
        reason=reason,
    )
    created.propose(record.spec)
    created.end_trial(record)
    assert created.records() == [record]


def test_an_interrupted_trial_has_the_rows_of_its_history(created, sweep):
    created.propose(sweep.trial("t000", "nayer", {}))
    created.trial_folder("t000").write_json(HISTORY, rows("t000", 2))
    (record,) = created.records()
    assert (record.outcome, record.rows) == (None, rows("t000", 2))


def test_trials_come_in_the_order_of_their_ids(created, sweep):
    for number in (2, 0, 1):
        created.propose(sweep.trial(f"t00{number}", "nayer", {}))
    assert [record.spec.id for record in created.records()] == ["t000", "t001", "t002"]


def test_a_trial_folder_without_a_recipe_is_no_trial(created):
    created.trial_folder("t000").write_json(HISTORY, [])
    assert not created.records()


@pytest.mark.parametrize(
    ("scores", "best"), [((1, 3, 2), 2), ((3, 2, 1), 1), ((2, 2, 2), 3), ((), None)]
)
def test_the_best_row_is_the_last_of_the_highest_score(sweep, scores, best):
    found = TrialRecord(
        spec=sweep.trial("t000", "nayer", {}),
        rows=tuple({"epoch": e, "score": score} for e, score in enumerate(scores, 1)),
    ).best
    assert (found and found["epoch"]) == best


# The table of results


@pytest.fixture
def records(stripes_file):
    """Two trials of two methods that measured different things."""
    both = plan(stripes_file, methods=("nayer", "noise"))
    one = TrialRecord(spec=both.trial("t000", "nayer", {"student_lr": 0.02}), rows=rows("t000", 3))
    more = tuple({**row, "accuracy": 0.5} for row in rows("t001", 2))
    return [one, TrialRecord(spec=both.trial("t001", "noise", {}), rows=more)]


def table(run):
    return pq.read_table(run.folder.local / RESULTS).to_pylist()


def test_results_have_one_row_per_trial_and_epoch(created, records):
    created.write_results(records)
    assert [(row["trial"], row["epoch"]) for row in table(created)] == [
        ("t000", 1),
        ("t000", 2),
        ("t000", 3),
        ("t001", 1),
        ("t001", 2),
    ]


def test_results_hold_the_recipe_of_each_trial(created, records):
    created.write_results(records)
    learned = {row["trial"]: row["recipe.student_lr"] for row in table(created)}
    assert learned == {"t000": 0.02, "t001": STRIPES["recipe"]["student_lr"]}


def test_what_a_trial_does_not_have_is_empty(created, records):
    created.write_results(records)
    first, *_, last = table(created)
    assert (first["accuracy"], last["recipe.batch_size"]) == (None, None)


def test_without_rows_there_are_no_results(created, sweep):
    created.write_results([TrialRecord(spec=sweep.trial("t000", "nayer", {}))])
    assert not created.folder.exists(RESULTS)


def test_results_take_options_of_several_kinds(created, tmp_path):
    """YAML reads 1e-2 as a word; settings take it as a number."""
    sweep = plan(write_task(tmp_path, {"search.student_lr": ["1e-2", 0.05]}))
    options = sweep.methods["nayer"].search["student_lr"].options
    created.write_results(
        [
            TrialRecord(spec=sweep.trial(id, "nayer", {"student_lr": rate}), rows=rows(id, 1))
            for id, rate in zip(("t000", "t001"), options, strict=True)
        ]
    )
    assert [row["recipe.student_lr"] for row in table(created)] == [0.01, 0.05]


# One driver per run


@contextlib.contextmanager
def another_process_that_holds(run):
    """A child that took the run's lock and will not let go by itself; its process id."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with run.lock():
                os.write(tell, b"!")
                time.sleep(600)
        finally:
            os._exit(1)
    try:
        os.close(tell)
        assert os.read(ready, 1) == b"!"
        yield child
    finally:
        os.close(ready)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_second_process_is_refused(created):
    with (
        another_process_that_holds(created),
        pytest.raises(ConfigError, match="mine is running already"),
        created.lock(),
    ):
        pass


def test_a_run_is_running_while_another_process_holds_it(created):
    with another_process_that_holds(created):
        assert created.is_running()


def test_the_death_of_a_process_frees_its_run(created):
    with another_process_that_holds(created) as child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with created.lock():
            assert created.is_running()


def test_a_second_driver_in_this_process_is_refused(created):
    with created.lock(), pytest.raises(ConfigError, match="running already"), created.lock():
        pass


def test_a_run_is_free_again_after_an_error(created):
    with contextlib.suppress(ZeroDivisionError), created.lock():
        _ = 1 / 0
    assert not created.is_running()


def test_asking_whether_it_runs_does_not_keep_others_out(created):
    created.is_running()
    with created.lock():
        assert created.is_running()


def test_a_run_that_was_never_begun_does_not_run(run):
    assert not run.is_running()


# Which folder a sweep goes to


def chosen(storage, stripes_file, said=None, **options):
    request = SweepRequest(task=stripes_file, storage=storage.uri, **options)
    definition = plan(stripes_file, **options).definition()
    return choose_run(request, definition, (said if said is not None else []).append)


def test_a_named_sweep_goes_where_it_is_named(storage, stripes_file):
    assert chosen(storage, stripes_file, name="other").folder == storage.child("other")


def test_a_sweep_without_a_name_is_called_after_its_task(storage, stripes_file):
    assert chosen(storage, stripes_file).name.startswith("stripes-")


def test_a_sweep_without_a_name_takes_no_folder_of_another(storage, stripes_file, sweep):
    for _ in range(3):
        run = chosen(storage, stripes_file)
        run.create(sweep)
        run.note(state="finished")
    assert len(find_runs(storage)) == 3


@pytest.mark.parametrize("state", ["interrupted", "running"])
def test_an_interrupted_sweep_is_resumed_by_itself(created, storage, stripes_file, state):
    created.note(state=state)
    said = []
    assert chosen(storage, stripes_file, said) == created
    assert "mine" in said[0]


def test_a_finished_sweep_is_not_resumed(created, storage, stripes_file):
    created.note(state="finished")
    assert chosen(storage, stripes_file) != created


def test_a_sweep_that_still_runs_is_left_alone(created, storage, stripes_file):
    with created.lock():
        assert chosen(storage, stripes_file) != created


def test_an_interrupted_sweep_of_another_definition_is_left_alone(created, storage, stripes_file):
    created.note(state="interrupted")
    assert chosen(storage, stripes_file, seed=1) != created


def test_only_folders_of_sweeps_are_runs(created, storage):
    storage.child("notes").write("todo.txt", b"")
    storage.write("sweep.json", b"{}")
    assert find_runs(storage) == [created]


def test_a_storage_folder_that_is_missing_has_no_runs(tmp_path):
    assert not find_runs(Folder.of(str(tmp_path / "missing")))


@pytest.mark.parametrize("write", [yaml.safe_dump, json.dumps])
def test_a_run_is_called_after_its_task_however_the_file_is_written(storage, tmp_path, write):
    path = write_task(tmp_path)
    (tmp_path / "stripes.yaml").write_text(write(tree({"task": "007"})))
    assert chosen(storage, path).name.startswith("007-")
