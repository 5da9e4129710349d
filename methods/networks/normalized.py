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
    """Raise ConfigError unless `network`, in evaluation mode, answers images of `shape`.

    Networks that pool adaptively take any size, but some halve it too often, or, as transformers
    do, take one size only.
    """
    images = torch.full((2, shape.channels, shape.height, shape.width), 0.5)
    was_training = network.training
    network.eval()
    try:
        logits = network(images)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"{name} cannot take images of {shape.channels}x{shape.height}x{shape.width}: {reason}"
        ) from None
    finally:
        network.train(was_training)
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        given = tuple(logits.shape[1:]) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(f"{name} answers {given} to an image, expected {classes} logits")
