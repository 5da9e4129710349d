"""Augmentations of whole batches on their device, differentiable, driven by a generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random shift of up to `shift` pixels with black edges (pad and crop), then a random flip."""

    shift: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Images [B, channels, H, W] in [0, 1] to the same, each image moved on its own."""
        if self.shift:
            images = shifted(images, self.shift, rng)
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


def flipped(images: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirror = torch.rand(len(images), generator=rng, device=images.device) < 0.5
    return torch.where(mirror.view(-1, 1, 1, 1), images.flip(3), images)
