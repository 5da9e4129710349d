"""Long tensors in pieces, so that to save or restore one takes no second one in memory."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

PIECE = 32_000_000  # bytes; one that changed anywhere is written again as a whole


def in_pieces(rows: Tensor) -> list[Tensor]:
    """The rows of a tensor, so many in each piece that it has about PIECE bytes; views.

    Rows keep their place in their piece when others are added behind.
    """
    many = PIECE // max(1, rows[:1].nbytes)
    return list(rows.split(max(1, many)))


def put_together(pieces: Iterable[Tensor], rows: Tensor) -> None:
    """Copy pieces into `rows`, one after the other, looking at each once."""
    start = 0
    for piece in each(pieces):
        rows[start : start + len(piece)] = piece
        start += len(piece)


def each(pieces: Iterable[Tensor]) -> Iterable[Tensor]:
    """The pieces; of checkpoints that are older than pieces are, the whole tensor as one."""
    return [pieces] if isinstance(pieces, Tensor) else pieces
