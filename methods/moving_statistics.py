"""L_bn with a memory: the moving average of feature statistics that Fast and NAYER compare."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dfkd.methods.losses import Moments, in_a_row


class MovingStatistics:
    """Feature statistics of past rounds, mixed into those of the batch that is being made.

    With `momentum` m the compared statistics are (1 - m) batch + m past, so that after the first
    round the gradient to the batch is scaled by 1 - m. The past moves once per round.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.past: list[Moments] | None = None

    def blended(self, batch: Sequence[Moments]) -> list[Moments]:
        """The batch's statistics mixed with the past; its own as long as there is none."""
        if self.past is None:
            return list(batch)
        seen, past, sizes = in_a_row(batch, self.past)
        parts = torch.lerp(seen, past, self.momentum).split(sizes)
        return list(zip(parts[::2], parts[1::2], strict=True))

    def remember(self, batch: Sequence[Moments]) -> None:
        """Once per round: move the past on by the round's last batch."""
        self.past = [(mean.detach(), var.detach()) for mean, var in self.blended(batch)]

    def forget(self) -> None:
        """As if there had been no round."""
        self.past = None
