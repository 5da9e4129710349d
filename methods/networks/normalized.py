"""What holds for a network of any architecture: its size, its normalization, what it can take."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dfkd.methods.errors import ConfigError
from dfkd.methods.shape import ImageShape


def parameters(network: nn.Module) -> int:
    """How many weights a network has."""
    return sum(p.numel() for p in network.parameters())


class Normalized(nn.Module):
    """A network behind its channel normalization: takes images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


@torch.no_grad()
def require_logits(network: nn.Module, name: str, shape: ImageShape, classes: int) -> None:
    """Raise ConfigError unless `network`, in evaluation mode, answers any number of such images.

    Networks that pool adaptively take any size, but some halve it too often, or, as transformers
    do, take one size only; a program may be made for one size of batch.
    """
    was_training = network.training
    network.eval()
    try:
        for count in (2, 3):
            images = torch.full((count, shape.channels, shape.height, shape.width), 0.5)
            _require_shape(network(images), name, (count, classes))
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        size = f"{shape.channels}x{shape.height}x{shape.width}"
        raise ConfigError(
            f"{name} cannot take {count} images of {size} at a time: {reason}"
        ) from None
    finally:
        network.train(was_training)


def _require_shape(logits: object, name: str, wanted: tuple[int, int]) -> None:
    if not isinstance(logits, Tensor) or logits.shape != wanted:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(f"{name} answers {given} to {wanted[0]} images, expected {wanted}")
