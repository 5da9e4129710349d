"""One driver per sweep on storage that knows no locks: a lease that its holder keeps renewing.

lease.json    who holds the sweep, and how often it was renewed

Only reads and writes of whole files are needed, of a store where a read finds what was written last
(S3, GCS, Azure and HDFS say so of themselves). Clocks of different machines are not compared: a
lease is over when it has not changed for as long as `Pace.expire` while somebody watched it.
docs/adr/0012 says what this guarantees and what it cannot.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from dfkd.methods.errors import ConfigError, DfkdError, SweepFailed
from dfkd.orchestrator.patience import Patience
from dfkd.orchestrator.storage import Folder

LEASE = "lease.json"
FORGOTTEN = 3600.0  # seconds by the clocks on the walls: nobody waits for a lease that old


class LeaseLost(SweepFailed):
    """Another driver has the sweep now; this one must not write to it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds."""

    renew: float = 6.0
    """Between two signs of life."""
    expire: float = 30.0
    """Without a sign of life until the lease is free; many times `renew`."""
    settle: float = 2.0
    """Between claiming a lease and looking who got it, where two claim it at the same time."""

    @property
    def valid(self) -> float:
        """For how long a holder may rely on what it read and wrote last: others wait longer."""
        return self.expire - self.renew


PACE = Pace()


def clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """The right to run a sweep, of this process. A Guard of the sweep's folder."""

    def __init__(self, folder: Folder, pace: Pace = PACE) -> None:
        self.owner = secrets.token_hex(8)
        self._folder = replace(folder, patience=Patience(seconds=pace.renew, most=pace.renew / 4))
        self._pace = pace
        self._renewals = 0
        self._written = 0.0  # clock() just before it was last seen to be ours, and renewed
        self._doubted = 0.0  # until then somebody may believe that it is theirs
        self._confirmed = float("-inf")  # clock() when it was last ours without any doubt
        self._lost = ""
        self._busy = threading.Lock()
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._keep_renewing, daemon=True)

    def take(self, say: Callable[[str], None]) -> None:
        """Wait until it is free and claim it. Raises ConfigError if somebody holds or gets it."""
        self._written = self._wait_until_free(say)
        self._write()
        now = clock()
        # Whoever claimed between our look and our write has seen nothing of ours. A short pause
        # shows who came last; if we were slow they may be at work, and need time to notice.
        late = now - self._written > self._pace.settle
        self._doubted = now + (self._pace.expire if late else self._pace.settle)
        self._renewer.start()
        while clock() < self._doubted and not self._lost:
            time.sleep(self._pace.settle / 10)
        self._renew()
        if self._lost:
            raise ConfigError(
                f"sweep {self._folder.name} was begun by another driver at the same time; watch it "
                f"with `dfkd status {self._folder.name}`, or choose another --name"
            )

    def check(self) -> None:
        """Raise LeaseLost unless it is still held. Asks storage only if that was long ago."""
        while not self._ended.is_set():
            if self._lost:
                raise LeaseLost(self._lost)
            if clock() - self._confirmed <= self._pace.valid:
                return
            self._renew()
            if clock() < self._doubted:
                time.sleep(self._pace.renew / 10)

    def release(self) -> None:
        """Let others have it at once; nothing is guarded from then on."""
        self._ended.set()
        with self._busy, suppress(OSError):
            if self._is_mine():
                self._folder.delete(LEASE)

    def _wait_until_free(self, say: Callable[[str], None]) -> float:
        """Returns when the look began that found it free."""
        seen, since, told = None, clock(), False
        while True:
            looked = clock()
            found = self._folder.read_json(LEASE)
            if found is None or time.time() - found["renewed"] > FORGOTTEN:
                return looked
            if found != seen and seen is not None:
                raise ConfigError(
                    f"sweep {self._folder.name} is running already, on {found['host']} (process "
                    f"{found['process']}), in {self._folder.uri}; watch it with `dfkd status "
                    f"{self._folder.name}`, or choose another --name"
                )
            if seen is None:
                seen, since = found, looked
            elif looked - since > self._pace.expire:
                return looked
            if not told:
                say(
                    f"sweep {self._folder.name} was last run on {found['host']}; seeing for "
                    f"{self._pace.expire:.0f} s whether it still is"
                )
                told = True
            time.sleep(self._pace.renew / 10)

    def _write(self) -> None:
        self._renewals += 1
        facts = {
            "owner": self.owner,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "renewals": self._renewals,
            "renewed": time.time(),
            "expires_after": self._pace.expire,
        }
        self._folder.write_json(LEASE, facts)

    def _is_mine(self) -> bool:
        found = self._folder.read_json(LEASE)
        return found is not None and found["owner"] == self.owner

    def _renew(self) -> None:
        with self._busy:
            looked = clock()
            if not self._ended.is_set() and self._is_mine():
                self._write()
                now = clock()
                if now - self._written > self._pace.valid:  # somebody may have taken it meanwhile
                    self._doubted = now + self._pace.expire
                self._written = looked
                if looked >= self._doubted:
                    self._confirmed = looked
                return
        self._lost = (
            f"sweep {self._folder.name} was taken over by another driver, since this one gave no "
            f"sign of life for {self._pace.expire:.0f} s; it stops here and leaves "
            f"{self._folder.uri} to the other"
        )

    def _keep_renewing(self) -> None:
        while not self._ended.wait(self._pace.renew) and not self._lost:
            with suppress(OSError, DfkdError):  # check() waits for storage if this goes on for long
                self._renew()


@dataclass
class Follower:
    """What a process of a driver's sweep sees of the driver's lease. A Guard, too."""

    folder: Folder
    """The sweep's."""
    owner: str
    pace: Pace = PACE
    looked: float = float("-inf")

    def check(self) -> None:
        """Raise LeaseLost unless the driver held it lately. Asks storage only now and then."""
        now = clock()
        if now - self.looked <= self.pace.renew:
            return
        found = self.folder.read_json(LEASE)
        if found is None or found["owner"] != self.owner:
            raise LeaseLost(f"the driver that runs sweep {self.folder.name} is another one by now")
        self.looked = now


@contextmanager
def held(folder: Folder, say: Callable[[str], None], pace: Pace | None = None) -> Iterator[Lease]:
    """Hold the lease of a sweep's folder. Raises ConfigError if another driver does."""
    lease = Lease(folder, pace or PACE)
    try:
        lease.take(say)
        yield lease
    finally:
        lease.release()


def holder(folder: Folder) -> dict[str, Any] | None:
    """What the lease says of the driver that holds it, by the clocks on the walls; None if none."""
    found: dict[str, Any] | None = folder.read_json(LEASE)
    if found is None or time.time() - found["renewed"] > found["expires_after"]:
        return None
    return found
