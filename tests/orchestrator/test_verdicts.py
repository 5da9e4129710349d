from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_tasks import EPOCHS

from dfkd.methods.jury import PROBES, ProbePool, Verdict
from dfkd.orchestrator import catalog, controls, outcomes
from dfkd.orchestrator.controls import EXTRA_ROUNDS, equip, make_controls
from dfkd.orchestrator.places import Here
from dfkd.orchestrator.probes import pools_from_bytes, pools_to_bytes
from dfkd.orchestrator.runs import CONTROLS, Run, TrialRecord
from dfkd.orchestrator.specs import CONTROL_ID, TrialSpec
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.sweeps import distill
from dfkd.orchestrator.trials import PROBE_FILE, Trial, run_trial
from dfkd.orchestrator.verdicts import (
    give_verdicts,
    how_well,
    judge,
    makers_of,
    ranks,
    spearman,
)

pytest_plugins = ["small_task_fixtures"]
pytestmark = pytest.mark.usefixtures("dfkd_cache")

NUMBERS = st.lists(st.integers(-5, 5).map(float), min_size=3, max_size=9)


@pytest.fixture(scope="session")
def control_pools(stripes_task, stripes_teacher):
    return tuple(pools_from_bytes(make_controls(stripes_task, stripes_teacher)))


@pytest.fixture
def judged(stripes_surroundings, control_pools):
    """Surroundings whose trials are judged by the control pools."""
    score = controls.SCORES["fidelity"]
    return replace(stripes_surroundings, controls=control_pools, score=score)


def spec(id="t000", seed=3, **recipe):
    values = {"warmup": 1, "kd_steps": 2, "kd_batch_size": 8, **recipe}
    return TrialSpec(
        id=id, method="noise", recipe=values, student="convnet-4-4", epochs=EPOCHS, seed=seed
    )


def record(id, fidelity, accuracy):
    row = {"epoch": 1, "score": fidelity, "accuracy": accuracy}
    found = TrialRecord(spec=spec(id), rows=(row,), outcome="finished")
    return found, Verdict(divergences={"p": -fidelity}, agreements={"p": 1.0}, fidelity=fidelity)


# Control pools


def test_control_pools_are_images_of_the_task(control_pools, stripes_task):
    shape = stripes_task.shape
    for pool in control_pools:
        assert pool.images.dtype == torch.uint8
        assert pool.images.shape == (PROBES, shape.channels, shape.height, shape.width)


def test_every_control_pool_is_of_another_kind(control_pools):
    assert len(control_pools) == len(EXTRA_ROUNDS) + 1
    assert len({pool.images.numpy().tobytes() for pool in control_pools}) == len(control_pools)


def test_the_same_teacher_gets_the_same_control_pools(stripes_task, stripes_teacher, control_pools):
    again = make_controls(stripes_task, stripes_teacher)
    assert again == pools_to_bytes(control_pools)


def test_a_teacher_without_batch_norm_gets_control_pools_too(stripes_task):
    from dfkd.methods.networks import build_network
    from dfkd.search_spaces.teachers import TeacherWeights

    name = "convnet-4-4-nobn"
    network = build_network(name, stripes_task.shape.channels, len(stripes_task.classes))
    bare = TeacherWeights(name, network.state_dict(), "nowhere")
    assert len(pools_from_bytes(make_controls(stripes_task, bare))) == len(EXTRA_ROUNDS) + 1


def test_control_pools_are_made_once_per_teacher(done, tmp_path, stripes_file, monkeypatch):
    monkeypatch.setattr(controls, "make_controls", lambda *_: pytest.fail("made again"))
    again = distill(stripes_file, name="again", storage=str(tmp_path), seed=1)
    assert again.run.folder.read(CONTROLS) == done.run.folder.read(CONTROLS)


def test_settings_of_other_methods_in_a_task_are_no_obstacle(stripes_task, stripes_teacher):
    shared = replace(stripes_task.shared, recipe={**stripes_task.shared.recipe, "noisy_width": 4})
    data = make_controls(replace(stripes_task, shared=shared), stripes_teacher)
    assert len(pools_from_bytes(data)) == len(EXTRA_ROUNDS) + 1


@pytest.mark.parametrize("left", [b"", b"torn", b"\x08" + b"\0" * 7 + b"{}      "])
def test_unreadable_control_pools_are_made_again(stripes_task, stripes_teacher, left, monkeypatch):
    class Torn:
        def read_bytes(self):
            return left

    monkeypatch.setattr(controls, "_cached", lambda *_: Torn())
    assert controls.cached_controls(stripes_task, stripes_teacher) is None


def test_pools_that_take_long_say_how_far_they_are(stripes_task, stripes_teacher, monkeypatch):
    monkeypatch.setattr(controls, "SHORT", 0.0)
    said = []
    make_controls(stripes_task, stripes_teacher, say=said.append)
    assert [text.split(",")[0] for text in said] == [
        f"control pools: {share} % made" for share in (25, 50, 75)
    ]


def test_pools_that_do_not_take_long_say_nothing(stripes_task, stripes_teacher, monkeypatch):
    monkeypatch.setattr(controls, "SHORT", 1000.0)
    make_controls(stripes_task, stripes_teacher, say=pytest.fail)


def test_choosing_by_accuracy_needs_no_control_pools(done, tmp_path):
    from dfkd.orchestrator.requests import request_of

    sweep = replace(request_of(done.run)[1], select="accuracy")
    run = Run(Folder.of(str(tmp_path)))
    equip(run, sweep, Here(), print)
    assert not run.folder.exists(CONTROLS)


def test_pools_come_back_from_their_file_in_order():
    pools = [ProbePool(n, torch.full((2, 1, 3, 3), i).byte()) for i, n in enumerate("zya")]
    for one, other in zip(pools, pools_from_bytes(pools_to_bytes(pools)), strict=True):
        assert one.name == other.name and torch.equal(one.images, other.images)


# Within a trial


def test_every_epoch_is_judged(judged):
    for row in run_trial(spec(), judged).history:
        assert row["fidelity"] <= 0 <= row["spread"]
        assert 0 <= row["agreement"] <= 1


def test_being_judged_changes_nothing_of_how_a_student_learns(judged, stripes_surroundings):
    losses = [
        [row.get("kd_loss") for row in run_trial(spec(), surroundings).history]
        for surroundings in (judged, stripes_surroundings)
    ]
    assert losses[0] == losses[1]


def test_mixed_up_labels_change_nothing_that_is_selected(judged):
    mixed = judged.evaluation.labels.flip(0)
    other = replace(judged, evaluation=replace(judged.evaluation, labels=mixed))
    assert not torch.equal(mixed, judged.evaluation.labels)
    one, two = (run_trial(spec(), surroundings) for surroundings in (judged, other))
    assert [row["score"] for row in one.history] == [row["score"] for row in two.history]
    assert one.best["epoch"] == two.best["epoch"]


def test_probes_are_put_aside_at_the_end(judged, tmp_path):
    folder = Folder.of(str(tmp_path / "t000"))
    trial = Trial(spec(), judged, folder)
    while not trial.finished:
        assert not folder.exists(PROBE_FILE)
        trial.step()
    (pool,) = pools_from_bytes(folder.read(PROBE_FILE))
    assert (pool.name, len(pool.images)) == ("t000", PROBES)


def test_a_teacher_that_says_nothing_of_any_pool_is_reported(judged):
    from dfkd.methods.errors import TrialFailed

    blank = ProbePool("blank", judged.controls[0].images[:1].expand(20, -1, -1, -1))
    with pytest.raises(TrialFailed, match=r"no control pool can judge.*--select accuracy"):
        run_trial(spec(), replace(judged, controls=(blank,)))


# The verdict on the sweep


def test_nobody_is_judged_by_images_of_their_own(done):
    (verdict,) = judge(done.run.folder.uri, ["t000"], "cpu").values()
    assert len(verdict.divergences) == len(EXTRA_ROUNDS) + 1
    assert "t000" not in verdict.divergences


def test_the_run_folder_remembers_the_verdict(done):
    records = done.run.records()
    assert done.run.verdicts() == give_verdicts(done.run, records, Here()) == done.verdicts


@pytest.fixture
def many(tmp_path):
    """Three trials and the control, their run folder, and a place that judged them already."""
    pools = {"p": 1.0, "q": 3.0, "r": 0.5}
    distances = {"t000": 0.3, "t001": 0.1, "t002": 0.2, CONTROL_ID: 0.01}
    verdicts = {
        id: Verdict(
            divergences={pool: level * distance for pool, level in pools.items()},
            agreements=dict.fromkeys(pools, 1.0),
            fidelity=0.0,
        )
        for id, distance in distances.items()
    }
    records = [record(id, -1.0, 1 - distance)[0] for id, distance in distances.items()]
    run = Run(Folder.of(str(tmp_path)))
    return give_verdicts(run, records, Judged([verdicts])), run


class Judged(Here):
    """A place where everything was done before."""

    def __init__(self, results):
        super().__init__("cpu")
        self.results = results

    def __call__(self, function, calls):
        return self.results


def test_fidelity_is_what_the_pools_agree_on(many):
    typical = (1.0 * 3.0 * 0.5) ** (1 / 3)
    assert many[0]["t000"].fidelity == pytest.approx(-0.3 * typical, rel=1e-3)
    assert max(many[0], key=lambda id: many[0][id].fidelity) == CONTROL_ID


def test_the_run_folder_says_how_sure_the_choice_is(many):
    assert many[1].sureness() == 1.0  # all pools choose t001, the control being no candidate


def test_every_pool_of_a_run_has_the_method_that_made_it(done):
    noisy = {"deepinversion and noise": "deepinversion"}
    controls = {name: name for name in EXTRA_ROUNDS} | noisy
    assert makers_of(done.run) == controls | {"t000": done.best.spec.method}


def test_one_trial_alone_is_no_choice_to_be_sure_of(done):
    assert done.run.sureness() is None


def test_the_summary_says_how_sure_the_choice_is(done, many):
    told = list(outcomes.jury({**catalog.outcome(done), "sureness": many[1].sureness()}))
    assert "juries drawn again from these pools choose the same student in 100 %" in told


def test_the_summary_of_one_trial_says_nothing_of_other_juries(done):
    told = outcomes.jury(catalog.outcome(done))
    assert not any("drawn again" in sentence for sentence in told)


def test_a_choice_of_the_best_costs_nothing():
    trials = {id: record(id, -1.0 / n, 0.5 + n / 10) for n, id in enumerate("abcd", 1)}
    records = {id: pair[0] for id, pair in trials.items()}
    verdicts = {id: pair[1] for id, pair in trials.items()}
    assert how_well(verdicts, records) == {"trials": 4, "spearman": 1.0, "regret": 0.0}


def test_a_wrong_choice_costs_what_the_best_has_more():
    trials = {"a": record("a", -0.1, 0.7), "b": record("b", -0.2, 0.9)}
    told = how_well({k: v[1] for k, v in trials.items()}, {k: v[0] for k, v in trials.items()})
    assert told["regret"] == pytest.approx(0.2)
    assert told["spearman"] is None  # of two


def test_the_noise_control_is_no_trial_that_the_jury_ranks():
    trials = {CONTROL_ID: record(CONTROL_ID, -9.0, 0.99), "a": record("a", -1.0, 0.5)}
    told = how_well({k: v[1] for k, v in trials.items()}, {k: v[0] for k, v in trials.items()})
    assert told == {"trials": 1, "spearman": None, "regret": 0.0}


def test_without_accuracy_nobody_knows_how_well_the_jury_did():
    found, verdict = record("a", -1.0, 0.5)
    row = {key: value for key, value in found.rows[0].items() if key != "accuracy"}
    assert how_well({"a": verdict}, {"a": replace(found, rows=(row,))}) is None


@given(NUMBERS, st.randoms())
def test_spearman_sees_order_only(values, random):
    other = values[:]
    random.shuffle(other)
    stretched = [np.exp(value) for value in other]
    assert spearman(values, other) == spearman(values, stretched)


@given(NUMBERS)
def test_spearman_of_a_thing_and_itself_is_one(values):
    found = spearman(values, values)
    assert found is None if len(set(values)) == 1 else found == pytest.approx(1)


@given(NUMBERS)
def test_ranks_always_have_the_same_sum(values):
    assert sum(ranks(values)) == len(values) * (len(values) + 1) / 2
