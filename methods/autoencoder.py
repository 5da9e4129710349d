"""A variational autoencoder of images, whose decoder can replay what it was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dfkd.methods.generators import LatentGenerator
from dfkd.methods.memory import Batch
from dfkd.methods.shape import ImageShape


class Encoder(nn.Module):
    """Images [B, channels, H, W] to mean and log-variance [B, latent] of their codes.

    Two 3x3 convolutions that halve the image, with BatchNorm and LeakyReLU(0.2), and a third.
    """

    def __init__(self, shape: ImageShape, width: int, latent: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = shape.channels
        for wide, stride in ((width, 2), (2 * width, 2), (2 * width, 1)):
            layers += [
                nn.Conv2d(channels, wide, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            channels = wide
        self.layers = nn.Sequential(*layers, nn.Flatten())
        places = math.ceil(shape.height / 4) * math.ceil(shape.width / 4)
        self.mean = nn.Linear(channels * places, latent)
        self.log_variance = nn.Linear(channels * places, latent)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.layers(images)
        return self.mean(features), self.log_variance(features)


class Autoencoder(nn.Module):
    """Kingma and Welling 2014; the decoder is the generator of all methods."""

    def __init__(self, shape: ImageShape, width: int, latent: int) -> None:
        super().__init__()
        self.encoder = Encoder(shape, width, latent)
        self.decoder = LatentGenerator(latent, shape, width)

    def forward(self, images: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images as they are remembered, and the loss that `code_divergence` is."""
        mean, log_variance = self.encoder(images)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        remembered: Tensor = self.decoder(mean + (log_variance / 2).exp() * noise)
        return remembered, code_divergence(mean, log_variance)

    def recalled(self, codes: Tensor) -> Tensor:
        """The images of codes [B, latent], by the statistics of all that was learned."""
        self.decoder.eval()
        images: Tensor = self.decoder(codes)
        self.decoder.train()
        return images


def code_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z | x) || N(0, I)), summed over the code and averaged over the images, in nats."""
    return ((mean.square() + log_variance.exp() - 1 - log_variance) / 2).sum(1).mean()


class Replay:
    """What a memory shows for codes that `draw(count, rng)` gives, as a student's source."""

    def __init__(self, memory: Autoencoder, draw: Callable[[int, torch.Generator], Tensor]) -> None:
        self.memory = memory
        self.draw = draw

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """Remembered images; nobody asked for classes."""
        codes = self.draw(count, rng)
        with torch.no_grad():
            return Batch(self.memory.recalled(codes))


def moment_distance(codes: Tensor) -> Tensor:
    """How far mean and biased variance of codes [B, latent] are from 0 and 1, squared."""
    variance, mean = torch.var_mean(codes, dim=0, unbiased=False)
    return (variance - 1).square().mean() + mean.square().mean()
