"""The teacher: frozen, behind its normalization, with what its BatchNorm layers remember."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dfkd.methods.losses import Moments
from dfkd.methods.networks import Normalized


class Teacher:
    """A trained classifier that answers logits and, when asked, the statistics of its features.

    `network` takes normalized images; `mean` and `std` (one number per channel) are the
    normalization that it was trained with. It is put in evaluation mode and frozen for good.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.network = Normalized(network, mean, std).eval().requires_grad_(False)
        self.mean, self.std = mean, std
        self._norms = [
            m
            for m in network.modules()
            if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None
        ]
        self._record: dict[nn.Module, Moments] | None = None
        for norm in self._norms:
            norm.register_forward_pre_hook(self._remember)

    @property
    def batch_norms(self) -> int:
        """How many BatchNorm layers there are; without any, L_bn is impossible."""
        return len(self._norms)

    @property
    def running(self) -> list[Moments]:
        """What each BatchNorm remembers of the training data: mean and variance, [C] each."""
        return [(norm.running_mean, norm.running_var) for norm in self._norms]  # type: ignore[misc]

    def to(self, device: torch.device) -> Teacher:
        """Move to `device`, in place."""
        self.network.to(device)
        return self

    def logits(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] in [0, 1] to logits [B, C]; gradients reach the images."""
        logits: Tensor = self.network(images)
        return logits

    def inspect(self, images: Tensor) -> tuple[Tensor, list[Moments]]:
        """Logits, and mean and biased variance per channel of what each BatchNorm was given."""
        self._record = {}
        try:
            logits = self.logits(images)
            # auxiliary heads, which only training uses, have layers that are never reached
            self._norms = [norm for norm in self._norms if norm in self._record]
            return logits, [self._record[norm] for norm in self._norms]
        finally:
            self._record = None

    def _remember(self, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._record is not None:
            features = inputs[0]
            variance, mean = torch.var_mean(features, dim=(0, 2, 3), unbiased=False)
            self._record[norm] = (mean, variance)
