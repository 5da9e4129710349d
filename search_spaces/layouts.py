"""Weights of one network under the names of another: the layouts of public checkpoints.

Three ways, the first that succeeds: names that agree once what wrappers put before them is taken
away; names that differ by a rule; the same shapes in the same order. docs/networks.md lists the
collections of checkpoints that were compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dfkd.search_spaces.weight_files import WeightFile

State = Mapping[str, Tensor]

PREFIXES = ("module.", "model.", "network.", "net.", "_orig_mod.")
"""DataParallel's, Lightning's and others' attributes, torch.compile's."""

RULES = (
    (r"\.module\.", "."),  # DataParallel around a part
    (r"^linear\.", "fc."),  # kuangliu/pytorch-cifar and what follows it, akamaster
    (r"\.shortcut\.", ".downsample."),  # kuangliu
    (r"\.convShortcut\.", ".shortcut."),  # the usual WideResNet, as in RepDistiller and CMI
    (r"^block(\d)\.layer\.", r"block\1."),  # the same
)
"""Patterns in names and what dfkd's networks have instead; one after the other, until one fits."""

UNUSED = ("aux1.", "aux2.", "AuxLogits.")  # heads that only training uses: torchvision's GoogLeNet
COUNTED = "num_batches_tracked"  # of each BatchNorm; it has no say in evaluation
LEAVES = {"weight", "bias", "running_mean", "running_var"}


class Misfit(ValueError):
    """Why weights are not those of a network."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Weights by a network's own names."""

    state: dict[str, Tensor]
    remark: str | None
    """How they were recognized, if not by their names."""


def fit(file: WeightFile, wanted: State) -> Fitted:
    """The weights of `file` under the names of `wanted`, a network's state dict.

    Shapes may still differ where names agree. Raises Misfit.
    """
    state = _without_prefix(_used(file.state, wanted), wanted)
    named = {_renamed(key, wanted): tensor for key, tensor in state.items()}
    missing = [key for key in _weights(wanted) if key not in named]
    extra = [key for key in named if key not in wanted]
    if len(named) == len(state) and not missing and not extra:
        return Fitted(named, None)
    theirs, ours = _weights(state), _weights(wanted)
    if not file.ordered or len(theirs) != len(ours):
        raise Misfit(
            f"{len(missing)} weights missing ({', '.join(missing[:3]) or 'none'}), "
            f"{len(extra)} unknown ({', '.join(extra[:3]) or 'none'})"
        )
    for their, our in zip(theirs, ours, strict=True):
        if not _alike(their, state[their], our, wanted[our], is_head=our in ours[-2:]):
            raise Misfit(
                f"its names are others, and its {their} {_shape(state[their])} stands where "
                f"{our} {_shape(wanted[our])} should"
            )
    matched = {our: state[their] for their, our in zip(theirs, ours, strict=True)}
    return Fitted(
        matched,
        f"its weights have other names and were matched by order and shape ({theirs[0]} is "
        f"{ours[0]}, ..., {theirs[-1]} is {ours[-1]}); layers without weights, such as pooling, "
        "may still differ: see that its accuracy is as published",
    )


def _used(state: State, wanted: State) -> State:
    """Without auxiliary heads, unless the network has them."""
    if any(key.startswith(UNUSED) for key in wanted):
        return state
    return {key: tensor for key, tensor in state.items() if not key.startswith(UNUSED)}


def _without_prefix(state: State, wanted: State) -> State:
    """Without what stands before all names, as long as no name is known."""
    while state and not any(key in wanted for key in state):
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _renamed(key: str, wanted: State) -> str:
    """The network's own name for `key`, if rules lead to one; else `key`."""
    name = key
    for pattern, replacement in RULES:
        if name in wanted:
            break
        name = re.sub(pattern, replacement, name)
    return name if name in wanted else key


def _weights(state: State) -> list[str]:
    return [key for key in state if not key.endswith(COUNTED)]


def _alike(their: str, theirs: Tensor, our: str, ours: Tensor, *, is_head: bool) -> bool:
    """Whether two weights may be the same; of the head, the number of classes is judged later."""
    leaves = {name.rpartition(".")[2] for name in (their, our)}
    if leaves <= LEAVES and len(leaves) == 2:
        return False
    if is_head and theirs.ndim == ours.ndim:
        return theirs.shape[1:] == ours.shape[1:]
    return theirs.shape == ours.shape


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "(a number)"


def misfits(state: State, wanted: State, network: str, task: str) -> list[str]:
    """What is wrong with weights that have the network's names; empty if nothing is.

    `wanted` is of the network called `network` as the task called `task` needs it.
    """
    head = [key for key in wanted if wanted[key].ndim == 1][-1]
    first = next((key for key in wanted if wanted[key].ndim == 4), head)
    shapes = {key: (state[key].shape, wanted[key].shape) for key in wanted if key in state}
    problems = []
    theirs, ours = shapes[head]
    if theirs != ours and len(theirs) == 1:
        problems.append(f"has {theirs[0]} classes, task {task} has {ours[0]}")
    theirs, ours = shapes[first]
    if len(theirs) == 4 and theirs[1] != ours[1] and theirs[2:] == ours[2:]:
        problems.append(f"takes images of {theirs[1]} channels, task {task} has {ours[1]}")
    wrong = [
        f"{key} is {tuple(theirs)} instead of {tuple(ours)}"
        for key, (theirs, ours) in shapes.items()
        if theirs != ours
    ]
    if wrong and not problems:
        problems.append(f"is not a {network}: {wrong[0]}")
    if any(not tensor.float().isfinite().all() for tensor in state.values()):
        problems.append("holds weights that are not finite")
    return problems
