"""Which sweeps have synthesis to share, and how that is asked for; without Ray running."""

from __future__ import annotations

import pytest
from small_tasks import plan

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.requests import SweepRequest, resolve
from dfkd.orchestrator.shelves import can_share
from dfkd.orchestrator.specs import sweep_from_definition
from dfkd.orchestrator.sweeps import sharing

pytest_plugins = ["small_task_fixtures"]

LESSONS = {"bn_weight": 1.0, "reinit_every": 1}  # fixed, so that only the lessons are searched


def test_a_search_over_the_students_settings_shares(stripes_file, dfkd_cache):
    assert can_share(plan(stripes_file, settings=LESSONS))


def test_a_search_over_the_adversary_shares_the_warm_up(stripes_file, dfkd_cache):
    assert can_share(plan(stripes_file, settings={**LESSONS, "adversarial_weight": 0.3}))


def test_a_search_over_numbers_that_synthesis_reads_has_nothing_to_share(stripes_file, dfkd_cache):
    assert not can_share(plan(stripes_file))


def test_a_game_has_nothing_to_share(stripes_file, dfkd_cache):
    assert not can_share(plan(stripes_file, methods=("dafl",)))


def test_one_method_that_shares_is_enough(stripes_file, dfkd_cache):
    assert can_share(plan(stripes_file, methods=("dafl", "fast")))


@pytest.mark.parametrize(
    ("mode", "settings", "expected"),
    [("off", LESSONS, None), ("exact", {}, None), ("exact", LESSONS, "exact")],
)
def test_keepers_are_started_only_where_something_is_shared(
    stripes_file, dfkd_cache, mode, settings, expected
):
    spec = plan(stripes_file, settings=settings, share_pools=mode)
    found = sharing(SweepRequest(task=stripes_file, share_pools=mode), spec)
    assert (found and found.mode) == expected


def test_the_pool_has_the_budget_and_policy_that_were_asked_for(stripes_file, dfkd_cache):
    asked = {"share_pools": "teacher", "pool_budget": "2 MB", "pool_policy": "priority"}
    found = sharing(SweepRequest(task=stripes_file, **asked), plan(stripes_file, **asked))
    assert (found.mode, found.budget, found.policy) == ("teacher", 2_000_000, "priority")


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"pool_budget": "plenty"}, "--pool-budget must be an amount of memory.*'plenty'"),
        ({"pool_budget": "0"}, "at least one byte"),
        ({"pool_policy": "rign"}, "Did you mean 'ring'"),
        ({"share_pools": "teacher", "methods": ("dafl",)}, "dafl would share nothing"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(stripes_file, dfkd_cache, asked, complaint):
    with pytest.raises(ConfigError, match=complaint):
        plan(stripes_file, **asked)


def test_trials_that_are_taught_by_each_other_make_another_sweep(stripes_file, dfkd_cache):
    one, two = (plan(stripes_file, share_pools=mode) for mode in ("exact", "teacher"))
    assert one.fingerprint() != two.fingerprint()
    assert sweep_from_definition(two.definition(), two.teacher).teacher_pools


def test_sharing_is_no_part_of_what_a_sweep_is(stripes_file, dfkd_cache):
    one, two = (
        resolve(SweepRequest(task=stripes_file, share_pools=sharing), lambda text: None)
        for sharing in ("exact", "off")
    )
    assert one.fingerprint() == two.fingerprint()


def test_a_resumed_sweep_shares_as_it_did_before():
    assert SweepRequest(task="digits", share_pools="off").remembered()["share_pools"] == "off"


def test_an_unknown_way_to_share_is_refused(stripes_file, dfkd_cache):
    with pytest.raises(ConfigError, match="no way to share pools 'exakt'"):
        plan(stripes_file, share_pools="exakt")
