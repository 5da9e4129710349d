import pytest

from dfkd.orchestrator.scores import SCORES, SMOOTHED

fidelity, accuracy = SCORES["fidelity"], SCORES["accuracy"]


def rows(*values, warmup=0):
    found = [{"fidelity": value, "accuracy": 0.5} for value in values]
    return [row if i < warmup else row | {"kd_loss": 1.0} for i, row in enumerate(found)]


def test_fidelity_is_averaged_over_the_last_epochs():
    values = [-9.0, -5.0, -4.0, -3.0, -2.0, -1.0]
    assert fidelity(rows(*values)) == sum(values[-SMOOTHED:]) / SMOOTHED


def test_one_lucky_epoch_does_not_decide():
    steady = fidelity(rows(*[-1.0] * SMOOTHED))
    lucky = fidelity(rows(*[-2.0] * (SMOOTHED - 1), -0.5))
    assert steady > lucky


def test_epochs_in_which_no_student_learned_do_not_count():
    assert fidelity(rows(-100.0, -100.0, -1.0, -3.0, warmup=2)) == -2.0


def test_in_the_warm_up_the_last_epoch_stands_for_itself():
    assert fidelity(rows(-100.0, -50.0, warmup=2)) == -50.0


@pytest.mark.parametrize("wrong", [0.0, 0.123, 1.0, float("nan")])
def test_fidelity_does_not_see_accuracy(wrong):
    history = rows(-3.0, -1.0)
    assert fidelity(history) == fidelity([row | {"accuracy": wrong} for row in history])


def test_accuracy_is_that_of_the_last_epoch():
    assert accuracy([{"accuracy": 0.9}, {"accuracy": 0.7}]) == 0.7


def test_only_accuracy_uses_real_labels():
    assert [name for name, score in SCORES.items() if score.uses_real_labels] == ["accuracy"]


def test_scores_are_shown_in_their_units():
    assert (accuracy.show(0.985), fidelity.show(-0.12345)) == ("98.50 %", "-0.1235")
