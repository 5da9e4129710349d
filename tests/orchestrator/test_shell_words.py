import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.shell_words import entrypoint

WORDS = st.text("ab \\\"'$`&;|*?[]{}()<>~#!é=%/-", max_size=8)


def shell(program: str, command: str) -> list[str]:
    """The words that a shell makes of a command line."""
    done = subprocess.run([program, "-c", f"printf '%s\\0' {command}"], capture_output=True)
    return done.stdout.decode().split("\0")[:-1]


@given(st.lists(WORDS, min_size=1, max_size=40))
def test_words_arrive_as_they_are_after_the_submitters_shell_and_the_heads(words):
    handed_over = subprocess.list2cmdline(shell("bash", entrypoint(words)))  # as `ray job submit`
    assert shell("sh", handed_over) == words


def test_what_needs_no_quotes_is_readable():
    words = ["dfkd", "sweep", "digits", "--set", "preset=paper", "--storage", "s3://bucket/runs"]
    assert entrypoint(words) == " ".join(words)


@pytest.mark.parametrize("word", ["two\nlines", "tab\t", "\0"])
def test_a_line_break_is_refused(word):
    with pytest.raises(ConfigError, match="a line break cannot be passed on"):
        entrypoint([word])
