import pytest
import torch
from workbenches import CPU, SHAPE, rng

from dfkd.methods.buckets import Buckets, resized
from dfkd.methods.errors import TrialFailed
from dfkd.methods.memory import Shard

SIZES = ((4, 4), (6, 6), (8, 8))


def buckets(capacity=0, counts=()):
    """Buckets with so many images of each size; an image's class says its size."""
    pools = Buckets(SHAPE, SIZES, capacity, CPU)
    for label, (size, count) in enumerate(zip(SIZES, counts, strict=False)):
        if count:
            pools.add(shard(size, count, label))
    return pools


def shard(size, count, label=0, *, seed=0):
    images = torch.randint(256, (count, 1, *size), generator=rng(seed), dtype=torch.uint8)
    return Shard(images, torch.full((count,), label))


def batches(pools, count, draws=None):
    draws = draws or rng()
    return [pools.sample(5, draws) for _ in range(count)]


def test_images_lie_in_the_bucket_of_their_size_as_they_are():
    pools = buckets()
    added = [shard(size, 3, label, seed=label) for label, size in enumerate(SIZES)]
    for one in added:
        pools.add(one)
    for size, one in zip(SIZES, added, strict=True):
        assert torch.equal(pools.pools[size].images, one.images)


def test_a_batch_has_images_of_one_size_with_their_labels():
    for batch in batches(buckets(counts=(9, 9, 9)), 20):
        label = batch.labels[0].item()
        assert batch.images.shape == (5, 1, *SIZES[label])
        assert (batch.labels == label).all()


def test_every_image_is_as_likely_to_be_drawn_as_any_other():
    drawn = torch.cat([b.labels[:1] for b in batches(buckets(counts=(10, 30, 60)), 2000)])
    shares = drawn.bincount(minlength=3) / len(drawn)
    assert shares.tolist() == pytest.approx([0.1, 0.3, 0.6], abs=0.04)


def test_an_empty_bucket_is_never_drawn_from():
    assert {b.labels[0].item() for b in batches(buckets(counts=(4, 0, 4)), 50)} == {0, 2}


def test_what_is_drawn_depends_on_the_generator_alone():
    pools = buckets(counts=(9, 9, 9))
    one, two, other = (batches(pools, 8, rng(seed)) for seed in (0, 0, 1))
    labels = [torch.cat([b.labels for b in found]) for found in (one, two, other)]
    assert torch.equal(labels[0], labels[1]) and not torch.equal(labels[0], labels[2])
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, two, strict=True))


def test_nothing_can_be_drawn_from_empty_buckets():
    with pytest.raises(TrialFailed, match="pool is empty"):
        buckets().sample(1, rng())


def test_enlarged_batches_have_the_tasks_size_and_the_same_images():
    pools = buckets(counts=(9, 9, 9))
    plain = batches(pools, 8)
    pools.enlarged = True
    for small, large in zip(plain, batches(pools, 8), strict=True):
        assert large.images.shape == (5, 1, 8, 8)
        assert torch.equal(large.images, resized(small.images, (8, 8)))
        assert torch.equal(large.labels, small.labels)


def test_lengths_and_labels_are_those_of_all_buckets_together():
    pools = buckets(counts=(2, 3, 4))
    assert len(pools) == 9
    assert pools.labels.bincount().tolist() == [2, 3, 4]


@pytest.mark.parametrize(("capacity", "each"), [(21, 7), (3, 1)])
def test_the_capacity_is_shared_evenly_by_all_sizes(capacity, each):
    pools = buckets(capacity, (50, 50, 50))
    assert [len(pool) for pool in pools.pools.values()] == [each] * 3


@pytest.mark.parametrize("capacity", [1, 2, 20])
def test_a_capacity_that_cannot_be_shared_evenly_is_exceeded_by_less_than_an_image_per_size(
    capacity,
):
    pools = buckets(capacity, (50, 50, 50))
    assert capacity <= len(pools) < capacity + len(SIZES)


def test_a_full_bucket_keeps_its_newest_images_and_leaves_the_others_alone():
    pools = buckets(12, (4, 4, 4))
    before = pools.pools[SIZES[1]].images.clone()
    newest = shard(SIZES[0], 4, seed=9)
    pools.add(newest)
    kept = pools.pools[SIZES[0]].images
    assert torch.equal(kept.flatten(1).sort(0).values, newest.images.flatten(1).sort(0).values)
    assert torch.equal(pools.pools[SIZES[1]].images, before)


def test_without_capacity_all_images_are_kept():
    assert len(buckets(0, (300, 1, 700))) == 1001


def test_restored_buckets_go_on_exactly():
    whole = buckets(21, (10, 3, 9))
    restored = Buckets(SHAPE, SIZES, 21, CPU)
    restored.restore(whole.state())
    for pools in (whole, restored):
        pools.add(shard(SIZES[0], 3, 7, seed=5))
    assert torch.equal(restored.labels, whole.labels)
    for one, two in zip(batches(whole, 8), batches(restored, 8), strict=True):
        assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)


def test_a_state_is_no_larger_than_the_images_and_their_classes():
    states = buckets(0, (2, 3, 4)).state()["pools"]
    images = sum(piece.nbytes for state in states for piece in state["images"])
    assert images == 2 * 16 + 3 * 36 + 4 * 64
    assert sum(state["labels"].nbytes for state in states) == 9 * 8


# Sizes


def test_images_that_have_the_size_stay_the_same_tensor():
    images = torch.rand(2, 1, 6, 8, generator=rng())
    assert resized(images, (6, 8)) is images
    assert resized(images, images.shape[2:]) is images


def test_enlarging_is_bilinear_between_the_middles_of_the_pixels():
    ramp = torch.tensor([[0.0, 1.0]]).view(1, 1, 1, 2)
    assert resized(ramp, (1, 4)).flatten().tolist() == pytest.approx([0, 0.25, 0.75, 1])


def test_enlarged_images_stay_in_their_range_and_keep_their_gradients():
    images = torch.rand(2, 3, 4, 5, generator=rng()).requires_grad_()
    large = resized(images, (8, 12))
    assert large.min() >= 0 and large.max() <= 1
    large.sum().backward()
    assert (images.grad > 0).all()
