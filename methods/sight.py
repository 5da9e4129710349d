"""What a network makes of a batch of images: logits, and its layers' inputs for those who ask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dfkd.methods.losses import Moments
from dfkd.methods.moments import channel_moments
from dfkd.methods.precision import computing, widened

Inputs = dict[nn.Module, Tensor]
Kind = TypeVar("Kind", bound=nn.Module)


class Sight:
    """One batch as one network saw it. The layers' inputs are kept, figures made of them lazily.

    `logits` are [B, C]. Gradients reach the images unless they were looked at without. Everything
    is told in float32, also if the network computed in less.
    """

    def __init__(self, logits: Tensor, inputs: Inputs, layers: Layers) -> None:
        self.logits = widened(logits)
        self._inputs = inputs
        self._layers = layers

    @cached_property
    def norm_inputs(self) -> list[Tensor]:
        """What each BatchNorm layer was given, [B, K, h, w] each."""
        return [widened(self._inputs[norm]) for norm in self._norms]

    @cached_property
    def moments(self) -> list[Moments]:
        """Mean and biased variance per channel of what each BatchNorm layer was given."""
        return [channel_moments(inputs) for inputs in self.norm_inputs]

    @property
    def running(self) -> list[Moments]:
        """What the same layers remember of the training data: mean and variance, [K] each."""
        return [(norm.running_mean, norm.running_var) for norm in self._norms]  # type: ignore[misc]

    @property
    def features(self) -> Tensor:
        """The input of the last linear layer, [B, F]: the embedding of each image."""
        return self._last(nn.Linear)

    @property
    def maps(self) -> Tensor:
        """The input of the last pooling layer, [B, K, h, w]: features with their places."""
        return self._last(nn.AdaptiveAvgPool2d)

    @cached_property
    def stages(self) -> list[Tensor]:
        """The last feature maps of each spatial size, largest first, [B, K, h, w] each.

        They are what the convolutions after the first, and the pooling, were given. What is
        squeezed to one place in between, as attention over channels does, is none of them, nor is
        what a head of convolutions reads after the pooling.
        """
        layers = self._layers
        readers = {*layers.convolutions[1:], *filter(None, [layers.pool])}
        reached = [layer for layer in self._inputs if layer in readers]
        if layers.pool in reached:
            reached = reached[: reached.index(layers.pool) + 1]
        found: dict[torch.Size, Tensor] = {}
        for reader in reversed(reached):
            maps = widened(self._inputs[reader])
            squeezed = maps.shape[2:].numel() == 1 and any(s.numel() > 1 for s in found)
            if not squeezed:
                found.setdefault(maps.shape[2:], maps)
        return sorted(found.values(), key=lambda maps: -maps.shape[2:].numel())

    def _last(self, kind: type) -> Tensor:
        """The input of the layer of this kind that was reached last."""
        found = [inputs for layer, inputs in self._inputs.items() if isinstance(layer, kind)]
        assert found, f"the network has no {kind.__name__}"
        return widened(found[-1])

    @property
    def _norms(self) -> list[nn.Module]:
        # auxiliary heads, which only training uses, have layers that are never reached
        return [norm for norm in self._layers.norms if norm in self._inputs]


class Layers:
    """The layers of a network whose inputs are worth a look."""

    def __init__(self, network: nn.Module) -> None:
        modules = list(network.modules())
        self.norms = [
            m for m in modules if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None
        ]
        self.convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
        self.head = _last(modules, nn.Linear)
        self.pool = _last(modules, nn.AdaptiveAvgPool2d)


def _last(modules: Sequence[nn.Module], kind: type[Kind]) -> Kind | None:
    return next((m for m in reversed(modules) if isinstance(m, kind)), None)


class Observer:
    """Looks at images through a network and remembers, for that one batch, what its layers saw."""

    def __init__(self, network: nn.Module, precision: str = "float32") -> None:
        self.network = network
        self.precision = precision
        self.layers = Layers(network)
        self._inputs: Inputs | None = None
        watched = [*self.layers.norms, *self.layers.convolutions]
        watched += [m for m in network.modules() if isinstance(m, nn.Linear | nn.AdaptiveAvgPool2d)]
        for module in watched:
            module.register_forward_pre_hook(self._remember)

    def look(self, images: Tensor, through: nn.Module | None = None, *, deep: bool = True) -> Sight:
        """The batch [B, channels, H, W] as the network sees it.

        `through` is the network in a wrapper, if it must be called that way. Unless `deep`, the
        logits are all there is.
        """
        inputs: Inputs = {}
        self._inputs = inputs if deep else None
        try:
            with computing(images.device, self.precision):
                logits: Tensor = (through or self.network)(images)
        finally:
            self._inputs = None
        return Sight(logits, inputs, self.layers)

    def _remember(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._inputs is not None:
            self._inputs[module] = inputs[0]
