"""A sweep's options and the words of a command line mean each other."""

from __future__ import annotations

from dataclasses import fields

import pytest
from command_line import COMMANDS, dfkd
from hypothesis import given, settings
from hypothesis import strategies as st

from dfkd import cli
from dfkd.orchestrator.options import SweepOptions, as_words

WORD = st.from_regex(r"[a-z0-9][a-z0-9 ./:_'\"=-]{0,9}", fullmatch=True)
KEY = st.from_regex(r"[a-z_]{1,9}", fullmatch=True)
NUMBER = st.floats(0, 1e6, allow_nan=False)
KINDS = {
    "int": st.integers(0, 10**9),
    "int | None": st.none() | st.integers(0, 10**9),
    "float": NUMBER,
    "bool": st.booleans(),
    "str": WORD,
    "str | None": st.none() | WORD,
    "tuple[str, ...]": st.lists(WORD, min_size=1, max_size=3).map(tuple),
    "Mapping[str, Any]": st.dictionaries(KEY, WORD, max_size=3),
}
SOME_OPTIONS = st.builds(
    SweepOptions, **{one.name: KINDS[one.type] for one in fields(SweepOptions)}
)


@settings(max_examples=60, deadline=None)
@given(SOME_OPTIONS)
def test_the_words_of_options_are_read_as_the_same_options(options):
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "show_plan", lambda asked, as_json: read.append(asked))
        result = dfkd("sweep", "digits", "--dry-run", *as_words(options))
    assert result.exit_code == 0, result.stderr
    assert read == [
        {"task": "digits", **{f.name: getattr(options, f.name) for f in fields(options)}}
    ]


def test_options_as_they_are_by_default_need_no_words():
    assert as_words(SweepOptions()) == ()


def test_distilling_takes_a_sweeps_options_but_those_of_many_trials():
    taken = {one.name for one in COMMANDS["distill"].params}
    assert {"methods", "epochs", "settings", "teacher", "seed"} <= taken
    assert not {"trials", "workers", "scheduler", "search", "address"} & taken
