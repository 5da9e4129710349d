"""Generators: from label-text embeddings or noise to images in [0, 1]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfkd.methods.shape import ImageShape

DEEP_FROM = 97  # pixels: larger images get four doublings instead of two (NAYER's NLDeep)


class Trunk(nn.Module):
    """Vectors [B, inputs] to images [B, channels, H, W] in [0, 1].

    The generator of CMI, Fast and NAYER: a linear layer to a small map, then nearest upsampling and
    3x3 convolutions with BatchNorm and LeakyReLU(0.2). Two doublings up to 96 pixels; above, four,
    after a convolution at the small size (NAYER's variant for ImageNet). Sizes need not be square
    or divisible.
    """

    def __init__(self, inputs: int, shape: ImageShape, width: int) -> None:
        super().__init__()
        wide, narrow = 2 * width, width
        deep = max(shape.height, shape.width) >= DEEP_FROM
        widths = [wide, wide, narrow, narrow, narrow] if deep else [wide, narrow]
        doublings = 4 if deep else 2
        seed_size, *grown = [
            (math.ceil(shape.height / 2**k), math.ceil(shape.width / 2**k))
            for k in reversed(range(doublings + 1))
        ]
        self.seed_size = seed_size
        self.sizes = [seed_size, *grown] if deep else grown
        self.wide = wide
        self.seed = nn.Linear(inputs, wide * self.seed_size[0] * self.seed_size[1])
        self.norm = nn.BatchNorm2d(wide)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1, bias=False),
                nn.BatchNorm2d(b),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for a, b in zip([wide, *widths], widths, strict=False)
        )
        self.head = nn.Conv2d(widths[-1], shape.channels, 3, padding=1)

    def forward(self, vectors: Tensor) -> Tensor:
        maps: Tensor = self.norm(self.seed(vectors).view(-1, self.wide, *self.seed_size))
        for size, stage in zip(self.sizes, self.stages, strict=True):
            maps = stage(F.interpolate(maps, size=size, mode="nearest"))
        return torch.sigmoid(self.head(maps))


class NoisyLayers(nn.Module):
    """K linear layers side by side, redrawn from N(0, std^2) instead of a noise input (NAYER).

    Of a batch, each layer serves ceil(B / K) consecutive rows; all K are one batched product.
    """

    def __init__(self, layers: int, inputs: int, outputs: int, std: float) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(layers, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(layers, 1, outputs))

    @torch.no_grad()
    def redraw(self, rng: torch.Generator) -> None:
        """New noise: weights from N(0, std^2), biases 0."""
        self.weight.normal_(0.0, self.std, generator=rng)
        self.bias.zero_()

    def forward(self, rows: Tensor) -> Tensor:
        layers, inputs, outputs = self.weight.shape
        share = math.ceil(len(rows) / layers)
        padded = F.pad(rows, (0, 0, 0, layers * share - len(rows)))
        mixed = torch.baddbmm(self.bias, padded.view(layers, share, inputs), self.weight)
        return mixed.view(-1, outputs)[: len(rows)]


class NoisyLabelGenerator(nn.Module):
    """NAYER's generator: class y to BN(embedding of y), through a noisy layer, to an image.

    The BatchNorm1d spreads the label-text embeddings, which lie close together, to unit variance.
    The module is always in training mode: its statistics are those of the batch.
    """

    embeddings: Tensor

    def __init__(self, embeddings: Tensor, noisy: NoisyLayers, trunk: Trunk) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings.clone(), persistent=False)
        self.spread = nn.BatchNorm1d(embeddings.shape[1])
        self.noisy = noisy
        self.trunk = trunk

    def forward(self, target: Tensor) -> Tensor:
        """Classes [B] to images [B, channels, H, W] in [0, 1]."""
        images: Tensor = self.trunk(self.noisy(self.spread(self.embeddings[target])))
        return images
