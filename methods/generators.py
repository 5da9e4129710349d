"""Generators: from label-text embeddings or noise to images in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfkd.methods.precision import computing, widened
from dfkd.methods.shape import ImageShape

DEEP_FROM = 97  # pixels: larger images get four doublings instead of two (NAYER's NLDeep)

Size = tuple[int, int]


class Trunk(nn.Module):
    """Vectors [B, inputs] to images [B, channels, H, W] in [0, 1].

    The generator of CMI, Fast and NAYER: a linear layer to a small map, then nearest upsampling and
    3x3 convolutions with BatchNorm and LeakyReLU(0.2). Two doublings up to 96 pixels; above, four,
    after a convolution at the small size (NAYER's variant for ImageNet). Sizes need not be square
    or divisible. `sizes` are the resolutions it can render, by default the shape's own alone: each
    has a first and a last layer of its own, all share the layers between (MUSE).
    """

    def __init__(
        self,
        inputs: int,
        shape: ImageShape,
        width: int,
        sizes: Sequence[Size] = (),
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.precision = precision
        wide, narrow = 2 * width, width
        native = (shape.height, shape.width)
        self.sizes = tuple(sizes) or (native,)
        deep = max(native) >= DEEP_FROM
        widths = [wide, wide, narrow, narrow, narrow] if deep else [wide, narrow]
        ladders = [_ladder(size, 4 if deep else 2) for size in self.sizes]
        self.seed_sizes = [ladder[0] for ladder in ladders]
        self.steps = [ladder if deep else ladder[1:] for ladder in ladders]
        self.wide = wide
        self.seeds = nn.ModuleList(
            nn.Linear(inputs, wide * height * width) for height, width in self.seed_sizes
        )
        self.norm = nn.BatchNorm2d(wide)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1, bias=False),
                nn.BatchNorm2d(b),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for a, b in zip([wide, *widths], widths, strict=False)
        )
        self.heads = nn.ModuleList(
            nn.Conv2d(widths[-1], shape.channels, 3, padding=1) for _ in self.sizes
        )
        self.to(memory_format=torch.channels_last)  # faster convolutions

    def forward(self, vectors: Tensor, which: int = 0) -> Tensor:
        """Images of `sizes[which]`, in float32."""
        with computing(vectors.device, self.precision):
            maps: Tensor = self.seeds[which](vectors).view(-1, self.wide, *self.seed_sizes[which])
            maps = self.norm(maps.contiguous(memory_format=torch.channels_last))
            for size, stage in zip(self.steps[which], self.stages, strict=True):
                maps = stage[1:](enlarged(maps, size, stage[0]))  # type: ignore[index]
            maps = self.heads[which](maps)
        return torch.sigmoid(widened(maps))


def enlarged(maps: Tensor, size: Size, convolve: nn.Conv2d) -> Tensor:
    """`convolve` (3x3, no bias) of maps [B, K, h, w] that are enlarged to `size` by repetition.

    Where that doubles both sides, each 3x3 patch holds but 2x2 different values. Adding up the
    weights that meet the same one leaves a transposed convolution by a 4x4 kernel: the same
    function with 2.25 times fewer products, and the enlarged maps are never stored.
    """
    height, width = maps.shape[2:]
    if size == (2 * height, 2 * width):
        pairs = F.avg_pool2d(convolve.weight, 2, stride=1, padding=1, divisor_override=1)  # sums
        return F.conv_transpose2d(maps, pairs.flip(2, 3).transpose(0, 1), stride=2, padding=1)
    if size != (height, width):
        maps = F.interpolate(maps, size=size, mode="nearest")
    convolved: Tensor = convolve(maps)
    return convolved


def _ladder(size: Size, doublings: int) -> list[Size]:
    """Sizes from the small map to the image, each about twice the one before."""
    height, width = size
    return [
        (math.ceil(height / 2**k), math.ceil(width / 2**k)) for k in reversed(range(doublings + 1))
    ]


class LatentGenerator(nn.Module):
    """Noise [B, latent] to images: the generator of all methods before label-text embeddings.

    With `classes`, a learned embedding of the class is put beside the noise (CGDD). The module is
    always in training mode: its BatchNorm statistics are those of the batch.
    """

    def __init__(
        self,
        latent: int,
        shape: ImageShape,
        width: int,
        classes: int = 0,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.latent = latent
        self.classes = nn.Embedding(classes, latent) if classes else None
        inputs = 2 * latent if classes else latent
        self.trunk = Trunk(inputs, shape, width, precision=precision)
        self.rendered = 0  # images since it was built

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """Noise [count, latent] from N(0, 1)."""
        return torch.randn(count, self.latent, generator=rng, device=rng.device)

    def forward(self, noise: Tensor, target: Tensor | None = None) -> Tensor:
        """Noise, and classes [B] if it is conditioned on them, to images in [0, 1]."""
        self.rendered += len(noise)
        if self.classes is not None and target is not None:
            noise = torch.cat([noise, self.classes(target)], dim=1)
        images: Tensor = self.trunk(noise)
        return images


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

    def forward(self, target: Tensor, which: int = 0) -> Tensor:
        """Classes [B] to images [B, channels, H, W] in [0, 1], of the trunk's size `which`."""
        images: Tensor = self.trunk(self.noisy(self.spread(self.embeddings[target])), which)
        return images


@torch.no_grad()
def reinitialize(generator: nn.Module, rng: torch.Generator) -> None:
    """Weights from N(0, 0.02^2), BatchNorm scales from N(1, 0.02^2), biases 0."""
    for module in generator.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
            middle = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
            module.weight.normal_(middle, 0.02, generator=rng)
            if module.bias is not None:
                module.bias.zero_()
