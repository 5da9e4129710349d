import pickle

import pytest

from dfkd.methods.errors import ConfigError, DfkdError, SweepFailed, TrialFailed, unknown


@pytest.mark.parametrize("error", [ConfigError, TrialFailed, SweepFailed])
def test_whatever_dfkd_raises_on_purpose_is_a_dfkd_error(error):
    assert issubclass(error, DfkdError)


def test_a_failed_trial_is_not_the_users_mistake():
    assert not issubclass(TrialFailed, ConfigError)


def test_a_config_error_shows_all_problems():
    text = str(ConfigError("steps is 0", "no method 'fastt'"))
    assert "steps is 0" in text and "no method 'fastt'" in text


def test_a_config_error_keeps_its_problems_apart():
    assert ConfigError("steps is 0", "lr is 0").problems == ("steps is 0", "lr is 0")


def test_a_config_error_without_a_problem_is_refused():
    with pytest.raises(ValueError, match="at least one problem"):
        ConfigError()


@pytest.mark.parametrize("error", [ConfigError("a", "b"), TrialFailed("a"), SweepFailed("a")])
def test_an_error_crosses_the_border_of_a_process_whole(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_an_unknown_name_is_told_the_nearest_known_one():
    assert "Did you mean 'nayer'?" in unknown("method", "nayr", ["noise", "nayer"])


def test_a_name_near_to_nothing_gets_no_suggestion():
    assert "Did you mean" not in unknown("method", "xyz", ["noise", "nayer"])


def test_an_unknown_name_is_told_all_known_ones_in_order():
    assert unknown("method", "xyz", ["noise", "nayer"]).endswith("Known: nayer, noise")


def test_an_unknown_name_where_none_is_known_says_so():
    assert unknown("method", "xyz", []).endswith("Known: none")


def test_what_was_unknown_is_quoted():
    assert unknown("network", "resnet 9", ["a"]).startswith("no network 'resnet 9'.")
