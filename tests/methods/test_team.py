import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dfkd.methods.memory import Shard
from dfkd.methods.team import Alone, portion


class Worker(Alone):
    def __init__(self, rank, size):
        self.rank, self.size = rank, size


def dealt(rounds, done, size):
    return [portion(rounds, done, Worker(rank, size)) for rank in range(size)]


@given(st.integers(0, 50), st.integers(0, 1000), st.integers(1, 9))
def test_the_portions_of_all_workers_are_all_rounds(rounds, done, size):
    assert sum(dealt(rounds, done, size)) == rounds


@given(st.lists(st.integers(0, 10), min_size=1, max_size=8), st.integers(1, 9))
def test_over_the_epochs_no_worker_gets_more_than_one_round_ahead(epochs, size):
    totals, done = [0] * size, 0
    for rounds in epochs:
        totals = [a + b for a, b in zip(totals, dealt(rounds, done, size), strict=True)]
        done += rounds
        assert max(totals) - min(totals) <= 1


def test_alone_every_round_is_ones_own():
    assert portion(7, 3, Alone()) == 7


def test_alone_shares_with_nobody():
    shards = [Shard(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))]
    assert Alone().share(shards) == shards


def test_alone_the_total_is_ones_own_value():
    assert torch.equal(Alone().total(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0]))


def test_alone_one_gathers_ones_own_state():
    assert Alone().gather({"epoch": 3}) == [{"epoch": 3}]


def test_alone_a_network_stays_as_it_is():
    network = nn.Linear(2, 2)
    assert Alone().parallel(network) is network
