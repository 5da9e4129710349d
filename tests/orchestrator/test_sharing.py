"""Which sweeps have synthesis to share, and how that is asked for; without Ray running."""

from __future__ import annotations

import pytest
from small_tasks import plan

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.requests import SweepRequest, resolve
from dfkd.orchestrator.shelves import can_share, shelving

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


@pytest.mark.parametrize(("sharing", "settings"), [("off", LESSONS), ("exact", {})])
def test_nothing_is_started_where_nothing_is_shared(stripes_file, dfkd_cache, sharing, settings):
    said = []
    with shelving(plan(stripes_file, settings=settings), sharing, said.append) as actor:
        assert actor is None
    assert not said


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
