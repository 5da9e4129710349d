"""Augmentations of whole batches on their device, differentiable, driven by a generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random shift of up to `shift` pixels with black edges (pad and crop), then a random flip.

    In between a random roll of up to `roll` times the side, so that it fits any resolution.
    """

    shift: int = 0
    flip: bool = False
    roll: float = 0.0

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Images [B, channels, H, W] in [0, 1] to the same, each image moved on its own."""
        if self.shift:
            images = shifted(images, self.shift, rng)
        if self.roll:
            images = rolled(images, self.roll, rng)
        if self.flip:
            images = flipped(images, rng)
        return images


def shifted(images: Tensor, pixels: int, rng: torch.Generator) -> Tensor:
    """Move each image by up to `pixels` in both directions; what comes in is black (0)."""
    batch, channels, height, width = images.shape
    moves = torch.randint(0, 2 * pixels + 1, (2, batch, 1), generator=rng, device=images.device)
    rows = moves[0] + torch.arange(height, device=images.device)  # [B, H]
    columns = moves[1] + torch.arange(width, device=images.device)  # [B, W]
    padded = F.pad(images, (pixels, pixels, pixels, pixels))
    index = rows[:, :, None] * padded.shape[3] + columns[:, None, :]  # [B, H, W]
    index = index.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view(images.shape)


def rolled(images: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Move each image by up to `share` of its side; what leaves comes back on the other side."""
    batch, channels, height, width = images.shape
    sides = torch.tensor([height, width], device=images.device)
    furthest = (share * sides).long().view(2, 1, 1)
    draws = torch.rand((2, batch, 1), generator=rng, device=images.device)
    moves = (draws * (2 * furthest + 1)).long() - furthest
    rows = (torch.arange(height, device=images.device) - moves[0]) % height  # [B, H]
    columns = (torch.arange(width, device=images.device) - moves[1]) % width  # [B, W]
    index = (rows[:, :, None] * width + columns[:, None, :]).view(batch, 1, -1)
    return images.flatten(2).gather(2, index.expand(-1, channels, -1)).view(images.shape)


def resized_crop(images: Tensor, smallest: float, rng: torch.Generator) -> Tensor:
    """Cut a random part out of each image and enlarge it, bilinearly, to the whole size.

    The part has between `smallest` and 1 of the area and sides of 3:4 to 4:3, as far as it fits
    (torchvision's and kornia's RandomResizedCrop draw again where it does not).
    """
    batch, _, height, width = images.shape
    draws = torch.rand((4, batch), generator=rng, device=images.device).to(images.dtype)
    area = smallest + (1 - smallest) * draws[0]
    ratio = torch.exp((2 * draws[1] - 1) * math.log(4 / 3))  # of width to height
    wide = (area * ratio * height / width).sqrt().clamp(max=1)  # shares of the sides
    high = (area / ratio * width / height).sqrt().clamp(max=1)
    right, down = (1 - wide) * (2 * draws[2] - 1), (1 - high) * (2 * draws[3] - 1)
    nothing = torch.zeros_like(wide)
    affine = torch.stack([wide, nothing, right, nothing, high, down], dim=1).view(batch, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def flipped(images: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirror = torch.rand(len(images), generator=rng, device=images.device) < 0.5
    return torch.where(mirror.view(-1, 1, 1, 1), images.flip(3), images)
