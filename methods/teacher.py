"""The teacher: frozen, behind its normalization, with what its BatchNorm layers remember."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dfkd.methods.losses import Moments
from dfkd.methods.networks import Normalized
from dfkd.methods.sight import Observer, Sight


class Teacher:
    """A trained classifier that answers logits and, when asked, what its layers saw.

    `network` takes normalized images; `mean` and `std` (one number per channel) are the
    normalization that it was trained with. It is put in evaluation mode and frozen for good.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        network = network.to(memory_format=torch.channels_last)  # faster convolutions
        self.network = Normalized(network, mean, std).eval().requires_grad_(False)
        self.mean, self.std = mean, std
        self._observer = Observer(self.network)

    @property
    def batch_norms(self) -> int:
        """How many BatchNorm layers there are; without any, L_bn is impossible."""
        return len(self._observer.layers.norms)

    @property
    def running(self) -> list[Moments]:
        """What each BatchNorm remembers of the training data: mean and variance, [K] each."""
        return [(n.running_mean, n.running_var) for n in self._observer.layers.norms]  # type: ignore[misc]

    @property
    def head(self) -> nn.Linear | None:
        """The last linear layer, whose input is the embedding of an image; None without one."""
        return self._observer.layers.head

    @property
    def pooled(self) -> int | None:
        """Cells to a side that the last pooling leaves; None where the maps are not pooled so."""
        pool = self._observer.layers.pool
        if pool is None:
            return None
        size = pool.output_size
        return size[0] if isinstance(size, tuple) else size

    def to(self, device: torch.device, precision: str = "float32") -> Teacher:
        """Move to `device`, and answer in this precision from now on, in place."""
        self.network.to(device)
        self._observer.precision = precision
        return self

    def logits(self, images: Tensor) -> Tensor:
        """Images [B, channels, H, W] in [0, 1] to logits [B, C]; gradients reach the images."""
        return self.look(images, deep=False).logits

    def look(self, images: Tensor, *, deep: bool = True) -> Sight:
        """The same, with what the layers saw unless `deep` is false."""
        return self._observer.look(images, deep=deep)
