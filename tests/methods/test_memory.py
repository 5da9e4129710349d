import dataclasses
import io

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from workbenches import CPU, rng

from dfkd.methods.errors import TrialFailed
from dfkd.methods.memory import POLICIES, Batch, Mixture, Pool, Shard, joined
from dfkd.methods.shape import ImageShape

SHAPE = ImageShape(1, 1, 2)
CAPACITIES = st.integers(0, 40)
COUNTS = st.lists(st.integers(0, 60), max_size=8)


def numbered(first, count):
    """A shard of images whose pixels and label all tell the image's number."""
    numbers = torch.arange(first, first + count)
    pixels = torch.stack([numbers // 256, numbers % 256], dim=1).to(torch.uint8)
    return Shard(pixels.view(count, 1, 1, 2), numbers)


def filled(capacity, counts, policy="ring", draws=None):
    pool, first = Pool(SHAPE, capacity, CPU, policy), 0
    for count in counts:
        pool.add(numbered(first, count), draws)
        first += count
    return pool


def numbers(images):
    return (images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long()).tolist()


@given(CAPACITIES, COUNTS)
@example(0, [256, 3])  # the unbounded pool's first tensor, exactly full
def test_a_pool_holds_the_newest_images_up_to_its_capacity(capacity, counts):
    pool, total = filled(capacity, counts), sum(counts)
    assert sorted(numbers(pool.images)) == list(range(max(0, total - (capacity or total)), total))


@given(CAPACITIES, COUNTS)
def test_every_image_keeps_its_label(capacity, counts):
    pool = filled(capacity, counts)
    assert pool.labels.tolist() == numbers(pool.images)


@given(CAPACITIES, COUNTS)
def test_the_length_of_a_pool_is_the_number_of_its_images(capacity, counts):
    pool = filled(capacity, counts)
    assert len(pool) == len(pool.images) == len(pool.labels)


@given(CAPACITIES, COUNTS, COUNTS)
def test_a_restored_pool_goes_on_exactly(capacity, before, after):
    whole, restored = filled(capacity, before), Pool(SHAPE, capacity, CPU)
    buffer = io.BytesIO()
    torch.save(whole.state(), buffer)
    restored.restore(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for count in after:
        whole.add(numbered(sum(before), count))
        restored.add(numbered(sum(before), count))
    assert numbers(restored.images) == numbers(whole.images)


@given(st.integers(0, 1000))
def test_a_drawn_image_comes_with_its_label(seed):
    batch = filled(0, [300]).sample(20, rng(seed))
    assert numbers(batch.images * 255) == batch.labels.tolist()


@given(st.integers(0, 1000))
def test_a_drawn_image_comes_with_its_place(seed):
    pool = filled(10, [7, 8])
    batch = pool.sample(20, rng(seed))
    assert numbers(pool.images[batch.index]) == batch.labels.tolist()
    assert batch.weights is None


def test_images_can_be_asked_for_by_their_places():
    pool, weights = filled(10, [7, 8]), torch.tensor([0.5, 2.0])
    batch = pool.at(torch.tensor([3, 0]), weights)
    assert numbers(batch.images * 255) == numbers(pool.images[[3, 0]]) == batch.labels.tolist()
    assert batch.weights is weights and batch.index.tolist() == [3, 0]


def test_every_image_is_drawn_about_equally_often():
    counts = filled(10, [7, 8]).sample(5000, rng()).labels.bincount()[5:]
    assert len(counts) == 10 and 400 < counts.min() <= counts.max() < 600


def test_drawn_images_are_floats_in_the_unit_interval():
    images = filled(0, [300]).sample(500, rng()).images
    assert images.dtype == torch.float32 and 0 <= images.min() < images.max() <= 1


def test_more_images_can_be_drawn_than_there_are():
    assert len(filled(0, [2]).sample(9, rng()).images) == 9


def test_an_empty_pool_fails_the_trial():
    with pytest.raises(TrialFailed, match="pool is empty"):
        Pool(SHAPE, 0, CPU).sample(1, rng())


def test_a_pool_owns_its_images():
    pool, shard = Pool(SHAPE, 0, CPU), numbered(0, 3)
    pool.add(shard)
    shard.images.zero_()
    assert numbers(pool.images) == [0, 1, 2]


def test_bytes_are_one_per_value_of_each_image():
    pool = Pool(ImageShape(3, 5, 7), 0, CPU)
    pool.add(Shard(torch.zeros(4, 3, 5, 7, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)))
    assert pool.bytes == 4 * 3 * 5 * 7


def test_quantizing_changes_a_value_by_half_a_level_at_most():
    images = torch.rand(10, 1, 8, 8, generator=rng())
    shard = Shard.of(images, torch.zeros(10, dtype=torch.int64))
    assert (shard.images / 255 - images).abs().max() <= 0.5 / 255 + 1e-6


def test_quantizing_keeps_black_and_white():
    shard = Shard.of(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1]))
    assert shard.images.flatten().tolist() == [0, 255]


def test_a_shard_does_not_keep_the_graph_that_made_it():
    images = torch.rand(2, 1, 1, 1, requires_grad=True)
    assert not Shard.of(images * 1, torch.tensor([0, 1])).images.requires_grad


def test_a_shard_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        numbered(0, 1).labels = torch.tensor([5])


@pytest.mark.parametrize("capacity", [0, 1000])
def test_a_state_is_the_images_and_labels_themselves(capacity):
    pool = filled(capacity, [3])
    state = pool.state()
    (images,) = state["images"]
    assert numbers(images) == state["labels"].tolist() == [0, 1, 2]
    assert images.data_ptr() == pool.images.data_ptr()


@given(CAPACITIES, COUNTS)
def test_a_pool_is_restored_from_a_state_that_is_older_than_pieces(capacity, counts):
    whole, restored = filled(capacity, counts), Pool(SHAPE, capacity, CPU)
    restored.restore(whole.state() | {"images": whole.images.clone()})
    assert numbers(restored.images) == numbers(whole.images)


def test_an_unbounded_pool_grows_no_larger_than_twice_its_images():
    pool = Pool(SHAPE, 0, CPU)
    for first in range(0, 3000, 500):
        pool.add(numbered(first, 500))
        assert pool.images.untyped_storage().nbytes() <= max(256 * 2, 2 * pool.bytes)


# Policies: who gives way in a full pool


@given(st.sampled_from(POLICIES), CAPACITIES, COUNTS, st.integers(0, 99))
def test_under_any_policy_every_image_keeps_its_label_and_none_is_there_twice(
    policy, capacity, counts, seed
):
    pool = filled(capacity, counts, policy, rng(seed))
    assert pool.labels.tolist() == numbers(pool.images)
    assert len(set(pool.labels.tolist())) == len(pool) == min(sum(counts), capacity or sum(counts))


@given(st.sampled_from(POLICIES), CAPACITIES, COUNTS, st.integers(0, 60), st.integers(0, 99))
def test_added_images_lie_where_it_is_said(policy, capacity, counts, more, seed):
    draws = rng(seed)
    pool = filled(capacity, counts, policy, draws)
    before = pool.labels.clone()
    where = pool.add(numbered(5000, more), draws)
    assert len(set(where.tolist())) == len(where) <= more
    assert (pool.labels[where] >= 5000).all()
    rest = torch.ones(len(pool), dtype=torch.bool)
    rest[where] = False
    assert torch.equal(pool.labels[rest], before[: len(rest)][rest[: len(before)]])


@pytest.mark.parametrize("policy", POLICIES)
def test_as_long_as_there_is_room_nobody_gives_way(policy):
    assert filled(10, [3, 7], policy).labels.tolist() == list(range(10))
    assert filled(0, [200, 300], policy).labels.tolist() == list(range(500))


@pytest.mark.parametrize("policy", ["reservoir", "random"])
def test_a_full_pool_that_draws_needs_a_generator(policy):
    with pytest.raises(AssertionError, match=f"a {policy} pool needs a generator"):
        filled(3, [3, 1], policy)


@pytest.mark.parametrize("policy", ["reservoir", "random"])
def test_who_gives_way_follows_the_generator(policy):
    one, same, other = (
        filled(20, [20, 20], policy, rng(seed)).labels.tolist() for seed in (0, 0, 1)
    )
    assert one == same != other


def kept(policy, counts, capacity=5, runs=500):
    """How often each image is still there at the end."""
    draws, found = rng(), torch.zeros(sum(counts))
    for _ in range(runs):
        found[filled(capacity, counts, policy, draws).labels] += 1
    return found


@pytest.mark.parametrize("counts", [[20], [3, 1, 7, 9], [1] * 20, [5, 15]], ids=str)
def test_a_reservoir_keeps_every_image_with_the_same_probability(counts):
    found, expected = kept("reservoir", counts), 500 * 5 / 20
    chi_square = ((found - expected).square() / expected).sum()
    assert chi_square < 43  # 19 degrees of freedom: p = 0.001


def test_a_random_pool_forgets_old_images_geometrically():
    found = kept("random", [5] + [1] * 10)
    expected = torch.tensor([0.8**10] * 5 + [0.8**age for age in reversed(range(10))])
    assert (found / 500 - expected).abs().max() < 0.08


def test_a_ring_forgets_the_oldest():
    assert kept("ring", [5, 3, 2], runs=1).tolist() == [0] * 5 + [1] * 5


@given(st.sampled_from(POLICIES), st.integers(1, 40), COUNTS, COUNTS)
def test_a_restored_pool_goes_on_exactly_under_any_policy(policy, capacity, before, after):
    whole, restored = filled(capacity, before, policy, rng()), Pool(SHAPE, capacity, CPU, policy)
    restored.restore(whole.state())
    for pool in (whole, restored):
        draws = rng(1)
        for count in after:
            pool.add(numbered(3000, count), draws)
    assert numbers(restored.images) == numbers(whole.images)
    assert torch.equal(restored.labels, whole.labels)


# Mixtures


class Endless:
    """A source of images of one gray, with or without labels."""

    def __init__(self, gray, label=None):
        self.gray, self.label, self.asked = gray, label, []

    def sample(self, count, rng):
        self.asked.append(count)
        labels = None if self.label is None else torch.full((count,), self.label)
        return Batch(torch.full((count, 1, 1, 2), self.gray), labels)


@given(st.integers(2, 200), st.floats(0, 1))
def test_a_mixture_has_the_share_of_the_memory_up_to_an_image(count, share):
    mixture = Mixture(Endless(0.25), Endless(0.75), share)
    images = mixture.sample(count, rng()).images
    old = int((images == 0.75).all(dim=(1, 2, 3)).sum()) if len(images) else 0
    assert len(images) == count and mixture.novel_of(count) == count - old
    assert abs(old - count * share) <= 1 and old < count


def test_the_novel_images_of_a_mixture_come_first():
    images = Mixture(Endless(0.25), Endless(0.75), 0.5).sample(4, rng()).images[:, 0, 0, 0]
    assert images.tolist() == [0.25, 0.25, 0.75, 0.75]


def test_without_a_share_the_memory_is_not_asked():
    memory = Endless(0.75)
    Mixture(Endless(0.25), memory, 0.0).sample(5, rng())
    assert memory.asked == []


@pytest.mark.parametrize(
    ("share", "count", "novel"), [(1 / 9, 1152, 1024), (0.5, 512, 256), (0.1, 10, 9), (0.3, 10, 7)]
)
def test_shares_that_fit_are_met_exactly(share, count, novel):
    assert Mixture(Endless(0.25), Endless(0.75), share).novel_of(count) == novel


def test_one_image_of_a_mixture_is_a_novel_one():
    assert Mixture(Endless(0.25), Endless(0.75), 0.9).sample(1, rng()).images[0, 0, 0, 0] == 0.25


@pytest.mark.parametrize(
    ("novel", "memory", "expected"), [(1, 2, [1, 1, 2, 2]), (None, 2, None), (1, None, None)]
)
def test_a_mixture_has_labels_if_both_sides_do(novel, memory, expected):
    batch = Mixture(Endless(0.25, novel), Endless(0.75, memory), 0.5).sample(4, rng())
    assert expected == (batch.labels if batch.labels is None else batch.labels.tolist())


def test_joined_batches_are_one_after_the_other():
    one, two = filled(0, [3]).at(torch.tensor([2, 0])), filled(0, [9]).at(torch.tensor([7]))
    batch = joined([one, two])
    assert numbers(batch.images * 255) == batch.labels.tolist() == [2, 0, 7]


def test_joined_batches_lie_in_no_one_pool():
    one = filled(0, [3]).at(torch.tensor([2, 0]))
    assert joined([one, one]).index is None
