"""Machines of a network of their own, as namespaces of this one's, whose links can be cut.

Nothing in it reaches anything else, and nothing outside is touched. Needs the right to make
namespaces, and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import pytest

NUMBERS = count()  # of networks that this process made


@dataclass(frozen=True, slots=True)
class Network:
    """A head and further machines, all linked to a bridge at the head's."""

    names: tuple[str, ...]
    """Of the namespaces, the head's first."""

    def ip(self, machine: int) -> str:
        return f"10.77.0.{machine + 1}"

    def inside(self, machine: int) -> list[str]:
        """What a command is prefixed with to run there; gloo would go by the host's name."""
        return ["ip", "netns", "exec", self.names[machine], "env", "GLOO_SOCKET_IFNAME=net"]

    def part(self, machines: Sequence[int], on: str = "on") -> None:
        """No packet passes between these machines any more; each still reaches the head's."""
        for machine in machines:
            ip(f"-n {self.names[0]} link set up{machine} type bridge_slave isolated {on}")

    def cut(self, machine: int) -> None:
        """No packet reaches or leaves the machine from now on; nobody is told."""
        ip(f"-n {self.names[0]} link set up{machine} down")

    def join(self, machine: int) -> None:
        """The end of the cut."""
        ip(f"-n {self.names[0]} link set up{machine} up")


@contextmanager
def network(machines: int) -> Iterator[Network]:
    """A network of so many machines; skips the test where it cannot be made, and says why."""
    if shutil.which("ip") is None:
        pytest.skip("there is no iproute2")
    prefix = f"dfkd{os.getpid()}n{next(NUMBERS)}m"
    found = Network(tuple(f"{prefix}{number}" for number in range(machines)))
    made: list[str] = []
    try:
        try:
            for name in found.names:
                ip(f"netns add {name}")
                made.append(name)
                ip(f"-n {name} link set lo up")
            link(found)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network can be made here: {error.stderr.strip()}")
        yield found
    finally:
        for name in made:  # its links and bridge go with it
            ip(f"netns del {name}")


def link(found: Network) -> None:
    """A bridge at the head's, and a link to it from every other machine."""
    head, *others = found.names
    ip(f"-n {head} link add net type bridge")
    for machine, name in enumerate(others, 1):
        ip(f"link add up{machine} netns {head} type veth peer name net netns {name}")
        ip(f"-n {head} link set up{machine} master net")
        ip(f"-n {head} link set up{machine} up")
    for machine, name in enumerate(found.names):
        ip(f"-n {name} addr add {found.ip(machine)}/24 dev net")
        ip(f"-n {name} link set net up")
        ip(f"-n {name} route add default dev net")  # Ray finds its own address by it


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True, timeout=30)
