import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfkd.methods import pieces
from dfkd.methods.pieces import in_pieces, put_together

ROWS = st.integers(0, 40)


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", 12)
        yield


def counted(rows, width=5):
    return torch.arange(rows * width, dtype=torch.uint8).view(rows, width)


@given(ROWS, st.integers(0, 9))
def test_pieces_put_together_are_the_whole(rows, spare):
    whole, found = counted(rows), torch.zeros(rows + spare, 5, dtype=torch.uint8)
    put_together(in_pieces(whole), found)
    assert torch.equal(found[:rows], whole) and not found[rows:].any()


@given(ROWS, ROWS)
def test_rows_that_are_added_leave_full_pieces_as_they_were(rows, more):
    before, after = in_pieces(counted(rows)), in_pieces(counted(rows + more))
    for one, two in zip(before[:-1], after, strict=False):
        assert torch.equal(one, two)


@pytest.mark.parametrize(("width", "rows"), [(1, 12), (5, 2), (12, 1), (13, 1), (1000, 1)])
def test_a_piece_has_as_many_rows_as_fit_and_at_least_one(width, rows):
    assert len(in_pieces(counted(20, width))[0]) == rows


def test_pieces_are_no_copies():
    whole = counted(7)
    assert [piece.data_ptr() for piece in in_pieces(whole)] == [
        whole[first].data_ptr() for first in (0, 2, 4, 6)
    ]


def test_a_whole_tensor_is_one_piece_as_in_older_checkpoints():
    found = torch.zeros(7, 5, dtype=torch.uint8)
    put_together(counted(7), found)
    assert torch.equal(found, counted(7))


def test_pieces_are_looked_at_once_and_one_by_one():
    def one_by_one():
        for part in in_pieces(counted(7)):
            copy = part.clone()
            yield copy
            copy.zero_()  # whoever kept it has nothing

    found = torch.zeros(7, 5, dtype=torch.uint8)
    put_together(one_by_one(), found)
    assert torch.equal(found, counted(7))
