"""A command that arrives word by word on a Ray head, whatever is in the words.

KubeRay puts a RayJob's entrypoint into a shell command of its own (`ray job submit ... -- WORDS`).
There `ray job submit` joins what that shell has made of the words by subprocess.list2cmdline, which
quotes as Windows does, and gives the line to a second shell. Words that were quoted once come to
that shell bare: it would take the `&` of s3://bucket?region=a&scheme=http for an operator.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from dfkd.methods.errors import ConfigError

PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def entrypoint(words: Iterable[str]) -> str:
    """The command for a RayJob's `entrypoint`, in its default submission mode.

    Raises ConfigError for a word with a line break or another control character in it.

    >>> entrypoint(["dfkd", "sweep", "digits", "--storage", "s3://runs?region=a&scheme=http"])
    "dfkd sweep digits --storage 's3://runs\\\\?region=a\\\\&scheme=http'"
    """
    return " ".join(shlex.quote(for_second_shell(word)) for word in words)


def for_second_shell(word: str) -> str:
    """What list2cmdline has to be given for a POSIX shell to read `word` in what it writes."""
    if any(ord(character) < 32 or ord(character) == 127 for character in word):
        raise ConfigError(f"a line break cannot be passed on to a cluster, in {word!r}")
    if PLAIN.fullmatch(word) or not word:
        return word
    # list2cmdline doubles backslashes before a double quote, and at the end of a word that it
    # quotes, which it does for those with a space: there one backslash makes the two of a shell.
    if " " in word:
        word = re.sub(r'\\+(?!\\|"|$)', lambda run: run[0] * 2, word)
        return re.sub(r"[$`]", r"\\\g<0>", word)
    word = re.sub(r'\\+(?!\\|")', lambda run: run[0] * 2, word)
    return re.sub(r'[^\w@%+=:,./\\"-]', r"\\\g<0>", word, flags=re.ASCII)
