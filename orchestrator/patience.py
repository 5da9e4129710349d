"""What storage answers when it refuses, and how long one bears with it.

What passes by itself (a server that is busy, a connection that broke) is tried again, with growing
pauses of random length, for a bounded time. What does not (no such bucket, access denied) is told
at once, with what to do about it.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dfkd.methods.errors import ConfigError, DfkdError

LATER = 10.0  # seconds of waiting from which on it is said
FOR_GOOD = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
PASSING = (
    "NETWORK_CONNECTION",
    "SLOW_DOWN",
    "INTERNAL_FAILURE",
    "SERVICE_UNAVAILABLE",
    "THROTTLING",
    "REQUEST_TIMEOUT",
)
"""What Arrow calls S3's errors that pass."""
S3_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
GIVE_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; in a cluster give the pods a "
    "secret with them, or a service account with a role"
)

Found = TypeVar("Found")


class StorageFailed(DfkdError, OSError):
    """Storage did not answer in time; it may later."""


class StorageRefused(ConfigError, OSError):
    """Storage will not, however often it is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to try again."""

    seconds: float = 300.0
    """From the first failure on."""
    first: float = 0.5
    """The longest that the first pause may take; each further one may take twice as long."""
    most: float = 20.0
    """The longest that any pause may take."""

    def pause(self, attempt: int) -> float:
        """Seconds before another attempt, at random: many that failed together spread out."""
        return random.uniform(0.1, 1.0) * min(self.most, self.first * 2.0**attempt)

    def bear(self, place: str, action: Callable[[], Found]) -> Found:
        """What an action returns, which is repeated while what it raises may pass.

        Raises what the filesystem does of files that are not there, StorageRefused and
        StorageFailed, which are OSErrors too.
        """
        end, attempt, told = 0.0, 0, False
        while True:
            try:
                return action()
            except OSError as error:
                if isinstance(error, (*FOR_GOOD, StorageRefused)):
                    raise
                if not passes(error):
                    raise StorageRefused(refusal(place, error)) from None
                now = time.monotonic()
                end = end or now + self.seconds
                pause = self.pause(attempt)
                if now + pause > end:
                    raise StorageFailed(silence(place, error, self.seconds)) from None
                if not told and now > end - self.seconds + LATER:
                    logging.getLogger("dfkd").warning(f"waiting for storage {place}: {gist(error)}")
                    told = True
            time.sleep(pause)
            attempt += 1


def passes(error: OSError) -> bool:
    """Whether it is worth another attempt; of what is not known, it is.

    >>> passes(OSError("AWS Error SLOW_DOWN during PutObject operation: try later"))
    True
    >>> passes(OSError("AWS Error ACCESS_DENIED during PutObject operation: no"))
    False
    """
    text = str(error)
    if "curlCode: 60" in text or "curlCode: 77" in text:  # certificates
        return False
    status = re.search(r"HTTP status (\d+)", text)
    if status is not None:
        return int(status[1]) >= 500 or int(status[1]) in (408, 429)
    return "AWS Error" not in text or any(word in text for word in PASSING)


def refusal(place: str, error: OSError) -> str:
    """What is wrong for good, and what to do."""
    text = gist(error)
    if "NO_SUCH_BUCKET" in text:
        advice = "there is no such bucket: create it, or choose another with --storage"
    elif "curlCode" in text:
        advice = "its certificate is not trusted: see tls_ca_file_path in docs/storage.md"
    elif "status 301" in text or "egion" in text or "AuthorizationHeaderMalformed" in text:
        advice = "is that its region? add ?region=REGION to the URI, or set AWS_DEFAULT_REGION"
    elif not any(map(os.environ.get, S3_CREDENTIALS)) and not has_keys_file():
        advice = f"no credentials were found: {GIVE_KEYS}"
    else:
        advice = (
            "are the credentials those that were meant, still valid, and may they list, read, "
            f"write and delete there? Else {GIVE_KEYS}"
        )
    return f"storage {place} refuses: {text}; {advice}"


def silence(place: str, error: OSError, seconds: float) -> str:
    """That nothing came of waiting, and what to do."""
    return (
        f"storage {place} did not work for {seconds:.0f} s: {gist(error)}; see whether it runs and "
        "can be reached from here, then run the same command to resume"
    )


def gist(error: OSError) -> str:
    """Its text without what only a server's log can explain."""
    text = (error.strerror or str(error)).partition("\n")[0]
    return re.sub(r" \(Request ID: [^)]*\)", "", text)


def has_keys_file() -> bool:
    """Whether there is a file of credentials where the AWS tools keep theirs."""
    chosen = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
    return Path(chosen or "~/.aws/credentials").expanduser().is_file()


PATIENCE = Patience()
AT_FIRST = Patience(seconds=15.0)  # whether storage is there at all
