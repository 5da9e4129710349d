"""Class activation maps: where in an image a teacher sees its evidence for a class.

For teachers that end in pooling and one linear layer (Zhou et al., CVPR 2016): with g x g pooled
cells, the logit of class c is the mean over places u of g^2 W[c, :, cell(u)] . F(u), plus a bias,
so each place has a say of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfkd.methods.errors import ConfigError
from dfkd.methods.method import Workbench


def check_maps(bench: Workbench) -> None:
    """Raise ConfigError unless the teacher's answer is its head's, of what its last pooling gives.

    Shapes alone do not tell: a VGG may have layers of one width between the two.
    """
    teacher, shape = bench.teacher, bench.shape
    assert teacher.head is not None and teacher.pooled is not None, "see objections"
    blank = torch.zeros(1, shape.channels, shape.height, shape.width, device=bench.device)
    try:
        seen = teacher.look(blank)
        place_weights(teacher.head, seen.maps, teacher.pooled)
        pooled = F.adaptive_avg_pool2d(seen.maps, teacher.pooled).flatten(1)
        if not torch.allclose(teacher.head(pooled), seen.logits, rtol=1e-3, atol=1e-3):
            raise ValueError("its logits are others than its head's of what is pooled")
    except (AssertionError, ValueError) as error:
        raise ConfigError(
            f"the teacher has layers between its last pooling and its last linear layer ({error}), "
            "so it has no class activation maps; set cam_weight=0 to synthesize without"
        ) from None


def place_weights(head: nn.Linear, maps: Tensor, cells: int) -> Tensor:
    """The weights of `head` at every place of `maps` [B, K, h, w]: [C, K, h, w].

    Raises ValueError where the head does not read K channels of cells x cells places.
    """
    channels, height, width = maps.shape[1:]
    if head.in_features != channels * cells * cells:
        raise ValueError(f"a head of {head.in_features} inputs over {channels} channels")
    weight = head.weight.view(-1, channels, cells, cells) * cells**2
    return F.adaptive_avg_pool2d(weight, (height, width))


def place_logits(maps: Tensor, head: nn.Linear, cells: int) -> Tensor:
    """What the teacher would answer if the whole image were like each place: [B, C, h, w].

    Their mean over the places is the logits, if all cells are of one size.
    """
    if cells == 1:  # as torchvision's networks have it: no weights to spread
        return F.conv2d(maps, place_weights(head, maps[..., :1, :1], 1), head.bias)
    weights = place_weights(head, maps, cells)
    logits = (maps[:, None] * weights[None]).sum(2)
    return logits if head.bias is None else logits + head.bias[:, None, None]


def activation_map(logits: Tensor, target: Tensor) -> Tensor:
    """M_y: the evidence for each image's class, [B, C, h, w] and [B] to [B, 1, h, w] in [0, 1].

    Negative evidence is cut off and the rest scaled to the unit interval, image by image; an image
    without evidence gets 0 everywhere, one with the same evidence everywhere gets 1.
    """
    index = target.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
    evidence = logits.gather(1, index).relu()
    low, high = evidence.amin((2, 3), keepdim=True), evidence.amax((2, 3), keepdim=True)
    scaled = (evidence - low) / (high - low).clamp_min(1e-8)
    return torch.where(high > low, scaled, (high > 0).to(scaled))


def coverage(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over places of the cross-entropy of that place's answer to the wanted class.

    Low where every place carries the class. `logits` [B, C, h, w], `target` [B].
    """
    height, width = logits.shape[2:]
    return F.cross_entropy(logits, target.view(-1, 1, 1).expand(-1, height, width))
