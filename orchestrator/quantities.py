"""Amounts as people type and read them."""

from __future__ import annotations

import re

from dfkd.methods.errors import ConfigError

UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(text: str, option: str) -> int:
    """Bytes in "200M", "1.5 GB" (powers of 1,000) or "1GiB" (of 1,024).

    Raises ConfigError, naming the option, for anything else and for less than one byte.

    >>> parse_bytes("200M", "--pool-budget"), parse_bytes("1 GiB", "--pool-budget")
    (200000000, 1073741824)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if match is None or (match[3] and not match[2]):
        raise ConfigError(f"{option} must be an amount of memory as 500M or 2GiB, got '{text}'")
    amount = int(float(match[1]) * (1024 if match[3] else 1000) ** UNITS[match[2]])
    if amount < 1:
        raise ConfigError(f"{option} must be at least one byte, got '{text}'")
    return amount


def bytes_as_text(count: float) -> str:
    """Bytes in the largest unit of 1,000 that leaves a whole part.

    >>> bytes_as_text(0), bytes_as_text(53_400_000), bytes_as_text(1_250_000_000_000)
    ('0 B', '53.4 MB', '1.2 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def seconds_as_text(seconds: float) -> str:
    """A time in two digits or so.

    >>> seconds_as_text(0.25), seconds_as_text(95), seconds_as_text(5400), seconds_as_text(400000)
    ('0.2 s', '95 s', '90 min', '111 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} h"
