"""A trial's checkpoint on storage: one file of what is small, and blocks beside it of what is long.

checkpoint.pt      the state as torch.save writes it, with the names of blocks in their place
blocks/<digest>    the bytes of one piece of a long tensor (dfkd.methods.pieces), called by what
                   they are: never changed, and the same for all workers that hold the same

A pool that grew costs its new pieces, and there is never more than one of them in memory. Blocks
are written before the checkpoint that names them, and removed after the last one that did: whenever
it is interrupted, what lies there is the old checkpoint or the new one, whole.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfkd.methods.errors import TrialFailed
from dfkd.methods.shelf import digest
from dfkd.orchestrator.patience import StorageFailed
from dfkd.orchestrator.storage import Folder

CHECKPOINT = "checkpoint.pt"
BLOCKS = "blocks"
LONG = 1_000_000  # bytes from which on a piece is a block of its own
PIECES = "dfkd/pieces"  # the only key of a dict that stands for a list with blocks in it

Block = tuple[str, torch.dtype, tuple[int, ...]]
"""A name, and the type and shape of the tensor whose bytes are called so."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """A list of tensors on storage. Raises TrialFailed where one is gone or damaged."""

    folder: Folder
    places: list[Tensor | Block]
    """What is too small for a block is here already."""
    device: torch.device | str

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[Tensor]:
        """Each read when it is its turn."""
        for place in self.places:
            found = place if isinstance(place, Tensor) else read_block(self.folder, place)
            yield found.to(self.device)


def stow(folder: Folder, state: Any) -> Any:
    """Write the blocks of a state that are not there yet; returns the rest, which names them.

    The rest shares small tensors with the state where these are on the CPU. Raises TrialFailed when
    storage refuses.
    """
    blocks = folder.child(BLOCKS)
    there: set[str] | None = None

    def put(tensor: Tensor) -> Block:
        nonlocal there
        plain = tensor.detach().cpu().contiguous()
        name = digest(plain)
        if there is None:  # asked only where there is something to write
            with explained(folder, BLOCKS):
                there = set(blocks.files())
        if name not in there:
            with explained(blocks, name):
                blocks.write(name, plain.reshape(-1).view(torch.uint8).numpy().data)
            there.add(name)
        return name, plain.dtype, tuple(plain.shape)

    return packed(state, put)


def publish(folder: Folder, stowed: Any, before: set[str] | None = None) -> set[str]:
    """Make the rest of a stowed state the checkpoint; returns the names of its blocks.

    The others are removed: those of `before`, if it is known that no more than these are there.
    """
    buffer = io.BytesIO()
    torch.save(stowed, buffer)
    with explained(folder, CHECKPOINT):
        folder.write(CHECKPOINT, buffer.getbuffer())
    prune(folder, stowed, before)
    return named(stowed)


def read(folder: Folder) -> Any:
    """The rest of a stowed state, as it was published; None where nothing was."""
    data = folder.read(CHECKPOINT)
    if data is None:
        return None
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no exception of its own
        raise damaged(folder, CHECKPOINT, type(error).__name__) from None


def fetch(folder: Folder, stowed: Any, device: torch.device | str = "cpu") -> Any:
    """The state whose rest this is, on a device; lists with blocks in them are Pieces."""
    if isinstance(stowed, Tensor):
        return stowed.to(device)
    if isinstance(stowed, dict) and stowed.keys() == {PIECES}:
        return Pieces(folder, stowed[PIECES], device)
    return within(stowed, lambda part: fetch(folder, part, device))


def prune(folder: Folder, stowed: Any, there: set[str] | None = None) -> None:
    """Remove blocks that the rest of a stowed state does not name. What cannot be removed stays."""
    blocks, names = folder.child(BLOCKS), named(stowed)
    for name in (set(blocks.files()) if there is None else there) - names:
        with suppress(OSError):
            blocks.delete(name)


def discard(folder: Folder) -> None:
    """Remove a checkpoint that nobody will resume from. What cannot be removed stays."""
    with suppress(OSError):
        if folder.exists(CHECKPOINT):
            folder.delete(CHECKPOINT)
        prune(folder, None)


@contextmanager
def saving(folder: Folder) -> Iterator[None]:
    """A trial that fails within the block, as on a full disk, leaves no more than it found."""
    try:
        yield
    except TrialFailed:
        with suppress(OSError, TrialFailed):
            prune(folder, read(folder))
        raise


@contextmanager
def explained(folder: Folder, name: str) -> Iterator[None]:
    """Turns what the system says of a file that cannot be written into the end of the trial.

    Not so of storage that is away: the trial may go on when it is back.
    """
    try:
        yield
    except StorageFailed:
        raise
    except OSError as error:
        raise TrialFailed(
            f"{folder.uri_of(name)} cannot be written: {error.strerror or error}; "
            "what was saved before is intact"
        ) from error


def packed(state: Any, put: Callable[[Tensor], Block]) -> Any:
    """A state with `put` asked for every long piece."""
    if isinstance(state, Tensor):
        return compact(state)
    if is_in_pieces(state):
        return {PIECES: [put(part) if part.nbytes >= LONG else compact(part) for part in state]}
    return within(state, lambda part: packed(part, put))


def named(stowed: Any) -> set[str]:
    """The blocks that belong to it."""
    if isinstance(stowed, dict) and stowed.keys() == {PIECES}:
        return {place[0] for place in stowed[PIECES] if isinstance(place, tuple)}
    if isinstance(stowed, dict):
        stowed = list(stowed.values())
    if isinstance(stowed, list | tuple):
        return set().union(*map(named, stowed))
    return set()


def read_block(folder: Folder, block: Block) -> Tensor:
    """A tensor back from its bytes; raises TrialFailed if they are not those."""
    name, dtype, shape = block
    data = folder.child(BLOCKS).read(name)
    if data is None:
        raise damaged(folder, f"{BLOCKS}/{name}", "it is missing")
    if len(data) == torch.Size(shape).numel() * dtype.itemsize:
        found = torch.frombuffer(bytearray(data), dtype=dtype).view(shape)
        if digest(found) == name:
            return found
    raise damaged(folder, f"{BLOCKS}/{name}", "its bytes are not those that were written")


def damaged(folder: Folder, name: str, why: str) -> TrialFailed:
    """What to tell of a part of a checkpoint that cannot be used."""
    return TrialFailed(
        f"{folder.uri_of(name)} is damaged ({why}); remove {folder.uri_of(CHECKPOINT)} to run the "
        "trial from its start"
    )


def is_in_pieces(part: Any) -> bool:
    """Whether it is a list of tensors of which some deserve a block."""
    tensors = isinstance(part, list) and all(isinstance(piece, Tensor) for piece in part)
    return tensors and any(piece.nbytes >= LONG for piece in part)


def compact(tensor: Tensor) -> Tensor:
    """On the CPU and no view: of a view, torch.save writes all that lies behind it."""
    found = tensor.detach().cpu()
    return found.clone() if found.untyped_storage().nbytes() > found.nbytes else found


def within(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A dict, list or tuple with each of its parts changed; anything else as it is."""
    if isinstance(tree, dict):
        found = copy.copy(tree)  # of its own kind, with what torch attaches to a state dict
        for key, part in tree.items():
            found[key] = change(part)
        return found
    return type(tree)(map(change, tree)) if isinstance(tree, list | tuple) else tree
