"""A bounded memory of feature vectors, against which CMI tells new images from past ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dfkd.methods.pieces import each, in_pieces


class FeatureBank:
    """What past images look like to the teacher: local beside global features, the newest kept."""

    def __init__(self, size: int, width: int, device: torch.device) -> None:
        self.size = size
        self.rows = torch.empty(0, width, device=device)
        self.next = 0  # the oldest row, once the bank is full

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: Tensor) -> None:
        """Rows [N, 2F] into the places that are free, then into those of the oldest."""
        rows = rows[-self.size :]
        room = self.size - len(self.rows)
        self.rows = torch.cat([self.rows, rows[:room]])
        over = rows[room:]
        where = (self.next + torch.arange(len(over), device=rows.device)) % self.size
        self.rows[where] = over
        self.next = (self.next + len(over)) % self.size

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """Up to `count` different rows."""
        order = torch.randperm(len(self.rows), generator=rng, device=rng.device)
        return self.rows[order[:count]]

    def state(self) -> dict[str, Any]:
        return {"rows": in_pieces(self.rows), "next": self.next}

    def restore(self, state: dict[str, Any]) -> None:
        self.rows = torch.cat([piece.to(self.rows.device) for piece in each(state["rows"])])
        self.next = state["next"]
