"""Amounts as people type them."""

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
