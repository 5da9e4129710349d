import dataclasses
import io

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from workbenches import CPU, rng, tensor_bytes

from dfkd.methods.errors import TrialFailed
from dfkd.methods.generators import ImageShape
from dfkd.methods.memory import Pool, Shard

SHAPE = ImageShape(1, 1, 2)
CAPACITIES = st.integers(0, 40)
COUNTS = st.lists(st.integers(0, 60), max_size=8)


def numbered(first, count):
    """A shard of images whose pixels and label all tell the image's number."""
    numbers = torch.arange(first, first + count)
    pixels = torch.stack([numbers // 256, numbers % 256], dim=1).to(torch.uint8)
    return Shard(pixels.view(count, 1, 1, 2), numbers)


def filled(capacity, counts):
    pool, first = Pool(SHAPE, capacity, CPU), 0
    for count in counts:
        pool.add(numbered(first, count))
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
    images, labels = filled(0, [300]).sample(20, rng(seed))
    assert numbers(images * 255) == labels.tolist()


def test_every_image_is_drawn_about_equally_often():
    _, labels = filled(10, [7, 8]).sample(5000, rng())
    counts = labels.bincount()[5:]
    assert len(counts) == 10 and 400 < counts.min() <= counts.max() < 600


def test_drawn_images_are_floats_in_the_unit_interval():
    images, _ = filled(0, [300]).sample(500, rng())
    assert images.dtype == torch.float32 and 0 <= images.min() < images.max() <= 1


def test_more_images_can_be_drawn_than_there_are():
    assert len(filled(0, [2]).sample(9, rng())[0]) == 9


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
def test_a_checkpoint_holds_no_more_than_the_images_and_labels(capacity):
    pool = filled(capacity, [3])
    assert tensor_bytes(pool.state()) == pool.bytes + 3 * 8


def test_a_state_stays_what_it_was_when_the_pool_goes_on():
    pool = filled(3, [3])
    state = pool.state()
    pool.add(numbered(7, 3))
    assert numbers(state["images"]) == [0, 1, 2]
