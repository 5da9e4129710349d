import json
from dataclasses import replace

import pytest
import torch
from small_tasks import EPOCHS, STRIPES, plan, write_task

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import build_network
from dfkd.orchestrator.requests import SweepRequest, plan_sweep
from dfkd.orchestrator.specs import (
    TrialSpec,
    fingerprint,
    sweep_from_definition,
    trial_as_json,
)
from dfkd.search_spaces.dimensions import Choice

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache")


@pytest.fixture(scope="module")
def sweep(stripes_file, dfkd_cache):
    return plan(stripes_file, methods=("nayer", "noise"))


def problems_of(task, **options):
    with pytest.raises(ConfigError) as refusal:
        plan(task, **options)
    return refusal.value.problems


# What identifies a sweep


def test_the_same_request_gives_the_same_fingerprint(sweep, stripes_file):
    again = plan(stripes_file, methods=("nayer", "noise"))
    assert again.fingerprint() == sweep.fingerprint()


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"methods": ("nayer",)},
        {"epochs": EPOCHS + 1},
        {"student": "convnet-2-4"},
        {"settings": {"kd_steps": 3}},
        {"seed": 1},
        {"scheduler": "median"},
        {"search": "random"},
        {"workers": 2},
        {"control": False},
    ],
    ids=str,
)
def test_another_request_gives_another_fingerprint(sweep, stripes_file, options):
    other = plan(stripes_file, **{"methods": ("nayer", "noise"), **options})
    assert other.fingerprint() != sweep.fingerprint()


def test_another_order_of_methods_gives_another_fingerprint(sweep, stripes_file):
    other = plan(stripes_file, methods=("noise", "nayer"))
    assert other.fingerprint() != sweep.fingerprint()


@pytest.mark.parametrize("change", [{"select": "accuracy"}, {"data": "/other.npz"}], ids=str)
def test_what_students_are_judged_by_is_in_the_fingerprint(sweep, change):
    assert replace(sweep, **change).fingerprint() != sweep.fingerprint()


def test_other_weights_of_the_teacher_give_another_fingerprint(sweep):
    state = {name: tensor + 1 for name, tensor in sweep.teacher.state.items()}
    other = replace(sweep, teacher=replace(sweep.teacher, state=state))
    assert other.fingerprint() != sweep.fingerprint()


def test_another_task_file_gives_another_fingerprint(sweep, tmp_path):
    other = plan(write_task(tmp_path, {"summary": "other"}), methods=("nayer", "noise"))
    assert other.fingerprint() != sweep.fingerprint()


@pytest.mark.parametrize("options", [{"trials": 99}, {"concurrent": 3}, {"cpus_per_worker": 2.0}])
def test_more_trials_and_other_resources_are_the_same_sweep(sweep, stripes_file, options):
    other = plan(stripes_file, methods=("nayer", "noise"), **options)
    assert other.fingerprint() == sweep.fingerprint()


def test_a_sweep_is_read_back_from_its_definition(sweep):
    stored = json.loads(json.dumps(sweep.definition()))
    assert sweep_from_definition(stored, sweep.teacher).definition() == sweep.definition()


def test_a_sweep_that_was_read_back_has_the_same_task(sweep):
    stored = json.loads(json.dumps(sweep.definition()))
    assert sweep_from_definition(stored, sweep.teacher).task == sweep.task


def test_methods_keep_their_order_when_read_back(stripes_file):
    sweep = plan(stripes_file, methods=("noise", "nayer"))
    stored = json.loads(json.dumps(sweep.definition(), sort_keys=True))
    assert list(sweep_from_definition(stored, sweep.teacher).methods) == ["noise", "nayer"]


def test_a_trial_is_read_back_from_json(sweep):
    trial = sweep.trial("t007", "nayer", {"temperature": 2.0})
    assert TrialSpec.from_json(json.loads(json.dumps(trial_as_json(trial)))) == trial


# Trials of a sweep


def test_a_trial_knows_what_was_searched(sweep):
    trial = sweep.trial("t000", "nayer", {"temperature": 1.0, "student_lr": 0.02})
    assert trial.searched == ("temperature", "student_lr")


def test_what_was_searched_goes_before_the_tasks_recipe(sweep):
    assert sweep.trial("t000", "nayer", {"temperature": 1.0}).recipe["temperature"] == 1.0


def test_the_control_learns_as_the_students_do(sweep):
    assert sweep.control_trial().recipe == STRIPES["recipe"]


def test_the_control_has_the_same_budget(sweep):
    control, trial = sweep.control_trial(), sweep.trial("t000", "nayer", {})
    same = ("student", "epochs", "seed")
    assert [getattr(control, key) for key in same] == [getattr(trial, key) for key in same]


# What is searched, and what is fixed


def test_what_nobody_sets_is_the_tasks(sweep):
    assert sweep.methods["nayer"].recipe["kd_steps"] == STRIPES["recipe"]["kd_steps"]


def test_what_is_set_goes_before_the_tasks_recipe(stripes_file):
    recipe = plan(stripes_file, settings={"kd_steps": "5"}).methods["nayer"].recipe
    assert recipe["kd_steps"] == 5


def test_what_is_set_is_not_searched(stripes_file):
    method = plan(stripes_file, settings={"temperature": "3"}).methods["nayer"]
    assert "temperature" not in method.search
    assert method.recipe["temperature"] == 3.0


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("False", False)], ids=["true", "false"]
)
def test_words_become_what_the_setting_is(stripes_file, text, value):
    recipe = plan(stripes_file, settings={"flip": text}).methods["nayer"].recipe
    assert recipe["flip"] is value


def test_a_preset_goes_before_the_task(stripes_file):
    method = plan(stripes_file, settings={"preset": "paper"}).methods["nayer"]
    assert method.recipe["bn_reduction"] == "sum"
    assert method.recipe["temperature"] == 20.0
    assert "temperature" not in method.search


def test_what_is_set_goes_before_a_preset(stripes_file):
    settings = {"preset": "paper", "temperature": "5"}
    assert plan(stripes_file, settings=settings).methods["nayer"].recipe["temperature"] == 5.0


def test_a_setting_may_belong_to_one_of_several_methods(stripes_file):
    methods = plan(stripes_file, methods=("noise", "nayer"), settings={"batch_size": "12"}).methods
    assert methods["nayer"].recipe["batch_size"] == 12
    assert "batch_size" not in methods["noise"].recipe


def test_a_method_named_twice_counts_once(stripes_file):
    assert list(plan(stripes_file, methods=("noise", "nayer", "noise")).methods) == [
        "noise",
        "nayer",
    ]


def test_options_become_what_the_setting_is(tmp_path):
    """YAML reads 1e-2 as a word, 0.01 as a number; settings take both, and so must a search."""
    task = write_task(tmp_path, {"search.student_lr": ["1e-2", 0.05]})
    assert plan(task).methods["nayer"].search["student_lr"] == Choice((0.01, 0.05))


# Mistakes


def test_an_unknown_setting_gets_the_nearest_known_one(stripes_file):
    (problem,) = problems_of(stripes_file, settings={"temprature": "1"})
    assert "'temprature'" in problem
    assert "Did you mean 'temperature'" in problem


def test_an_unknown_preset_gets_the_nearest_known_one(stripes_file):
    (problem,) = problems_of(stripes_file, settings={"preset": "papr"})
    assert "Did you mean 'paper'" in problem


def test_an_unknown_method_gets_the_nearest_known_one(stripes_file):
    (problem,) = problems_of(stripes_file, methods=("nayr",))
    assert "Did you mean 'nayer'" in problem


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"settings": {"kd_steps": "0"}}, "kd_steps must be at least 1, got '0'"),
        ({"settings": {"kd_steps": "2.5"}}, "kd_steps must be a whole number, got '2.5'"),
        ({"settings": {"student_lr": "fast"}}, "student_lr must be a number, got 'fast'"),
        ({"settings": {"student_lr": "nan"}}, "student_lr must be finite, got 'nan'"),
        ({"settings": {"bn_reduction": "max"}}, "bn_reduction must be one of mean, sum"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"student": "resnet"}, "student: no network 'resnet'"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"concurrent": 0}, "concurrent must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"cpus_per_worker": 0.0}, "cpus_per_worker must be above 0, got 0"),
        ({"gpus_per_worker": -1.0}, "gpus_per_worker must be at least 0, got -1"),
        ({"scheduler": "ash"}, "no scheduler 'ash'. Did you mean 'asha'?"),
        ({"search": "optunna"}, "no search 'optunna'. Did you mean 'optuna'?"),
        ({"select": "acuracy"}, "no select 'acuracy'. Did you mean 'accuracy'?"),
        ({"methods": ()}, "at least one method is needed"),
        ({"name": "a/b"}, "name must be a plain word without slashes, got 'a/b'"),
        ({"name": ".."}, "name must be a plain word without slashes, got '..'"),
        ({"name": ""}, "name must be a plain word without slashes, got ''"),
        ({"data": "missing.npz"}, "data missing.npz does not exist"),
        ({"teacher": "missing.pt"}, "teacher file missing.pt does not exist"),
    ],
)
def test_a_mistake_says_what_and_which_value(stripes_file, options, told):
    (problem,) = problems_of(stripes_file, **options)
    assert told in problem


def test_all_mistakes_are_told_at_once(stripes_file):
    found = problems_of(
        stripes_file,
        trials=0,
        scheduler="ash",
        epochs=0,
        student="resnet",
        settings={"kd_steps": "0", "temprature": "1", "student_lr": "x"},
    )
    assert len(found) == 7


def test_a_teacher_that_cannot_be_read_hides_no_other_mistake(stripes_file):
    found = problems_of(stripes_file, teacher="missing.pt", settings={"kd_steps": "0"})
    assert len(found) == 2


def test_a_mistake_is_told_once(tmp_path):
    assert len(problems_of(write_task(tmp_path, {"data": "missing.npz"}))) == 1


def test_a_mistake_is_found_before_a_teacher_is_trained(tmp_path, monkeypatch, stripes_file):
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "cache"))
    problems_of(stripes_file, methods=("nayr",))
    assert not (tmp_path / "cache").exists()


def test_labels_are_needed_to_select_by_accuracy(tmp_path, stripes_teacher):
    (tmp_path / "teacher.safetensors").write_bytes(stripes_teacher.to_bytes())
    task = write_task(tmp_path)
    text = (tmp_path / "stripes.yaml").read_text().replace("data: stripes.npz\n", "")
    (tmp_path / "stripes.yaml").write_text(text)
    teacher = str(tmp_path / "teacher.safetensors")
    (problem,) = problems_of(task, teacher=teacher, select="accuracy")
    assert "--select accuracy needs labeled images" in problem
    assert "--data" in problem


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"recipe.kd_steps": 0}, "task stripes, nayer: kd_steps must be at least 1, got 0"),
        ({"recipe.kd_step": 1}, "no setting 'kd_step'. Did you mean 'kd_steps'?"),
        ({"search.momentum": {"low": 0, "high": 2}}, "momentum must be at most 0.999, got 2.0"),
        ({"search.momentm": [0.1]}, "no setting 'momentm'. Did you mean 'momentum'?"),
        ({"methods.nayer.search.bn_reduction": ["mean", "max"]}, "bn_reduction must be one of"),
    ],
    ids=str,
)
def test_what_a_task_sets_and_searches_is_checked(tmp_path, change, told):
    (problem,) = problems_of(write_task(tmp_path, change))
    assert told in problem


def test_a_whole_setting_is_not_searched_in_fractions(tmp_path):
    task = write_task(tmp_path, {"search.kd_steps": {"low": 1, "high": 4}})
    assert "kd_steps" in problems_of(task)[0]


def test_label_embeddings_that_are_not_there_are_found_before_the_run(tmp_path):
    (problem,) = problems_of(write_task(tmp_path, {"embeddings": "minilms"}))
    assert "minilms" in problem


def test_a_warm_up_that_leaves_no_epoch_to_learn_is_refused(stripes_file):
    (problem,) = problems_of(stripes_file, settings={"warmup": str(EPOCHS)})
    assert f"warmup is {EPOCHS}" in problem
    assert f"raise --epochs above {EPOCHS}, or --set warmup={EPOCHS // 2}" in problem


def test_fewer_epochs_than_the_warm_up_are_refused(stripes_file):
    (problem,) = problems_of(stripes_file, epochs=1)
    assert "or --set warmup=0" in problem


def test_a_search_whose_warm_up_may_leave_no_epoch_is_refused(tmp_path):
    changes = {"search.warmup": {"low": 0, "high": EPOCHS, "whole": True}}
    (problem,) = problems_of(write_task(tmp_path, changes))
    assert "warmup" in problem


def test_a_recipe_may_lie_outside_what_is_searched(tmp_path):
    assert plan(write_task(tmp_path, {"recipe.temperature": 3.0}))


def test_planning_trains_no_teacher(stripes_file, tmp_path, monkeypatch):
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "cache"))
    planned = plan_sweep(SweepRequest(task=stripes_file))
    assert planned.methods == plan(stripes_file).methods
    assert planned.teacher.origin == "not trained yet"


# What a method objects to


@pytest.fixture
def bare_teacher(tmp_path):
    """A teacher without BatchNorm, by reference."""
    network = build_network("convnet-4-4-nobn", 1, 3)
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    return f"convnet-4-4-nobn:{tmp_path / 'teacher.pt'}"


def test_a_teacher_without_batch_norm_is_objected_to_with_advice(stripes_file, bare_teacher):
    (problem,) = problems_of(stripes_file, teacher=bare_teacher)
    assert problem.startswith("nayer: the teacher has no BatchNorm")
    assert "bn_weight=0" in problem


def test_following_the_advice_cures_the_objection(stripes_file, bare_teacher):
    sweep = plan(stripes_file, teacher=bare_teacher, settings={"bn_weight": "0"})
    assert sweep.methods["nayer"].recipe["bn_weight"] == 0.0


def test_a_method_that_does_not_mind_objects_to_nothing(stripes_file, bare_teacher):
    assert plan(stripes_file, teacher=bare_teacher, methods=("noise",))


def test_a_student_that_cannot_take_the_tasks_images_is_refused(stripes_file):
    with pytest.raises(ConfigError, match=r"student: keras-cifar10 cannot take .* 1x6x6"):
        plan(stripes_file, student="keras-cifar10")
