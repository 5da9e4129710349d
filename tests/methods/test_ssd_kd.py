import math

import pytest
import torch
from definitions import answers, divergences
from hypothesis import example, given
from hypothesis import strategies as st
from method_contract import LEARNING, MethodContract
from workbenches import CPU, SHAPE, Trial, rng, tiny_teacher

from dfkd.methods.errors import TrialFailed
from dfkd.methods.fast import Fast
from dfkd.methods.losses import batch_norm_gap, masked_adversarial, one_hot
from dfkd.methods.memory import Shard
from dfkd.methods.settings import build
from dfkd.methods.ssd_kd import FLOOR, PriorityPool, SsdKd, SsdKdSettings, modulation

QUICK = {
    "batch_size": 7,  # divisible by no number of classes in these tests
    "synthesis_steps": 2,
    "warmup_rounds": 2,
    "rounds": 2,
    "latent": 4,
    "generator_width": 2,
    "pool_capacity": 18,  # wraps within a batch
}
NO_BN = {"bn_weight": 0.0}
ADVERSARIAL = NO_BN | {"one_hot_weight": 0.0}


class TestSsdKd(MethodContract):
    method = SsdKd
    quick = QUICK
    adversarial = ADVERSARIAL
    without_batch_norm = NO_BN


def trial(values=None, **bench):
    return Trial(SsdKd, LEARNING | QUICK | (values or {}), **bench)


IMAGES = torch.rand(9, 1, 8, 8, generator=rng())
TARGET = torch.arange(9) % 3
LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 1.0]])
COUNTS = torch.tensor([6, 0, 3])


# phi


def test_phi_is_diversity_times_difficulty():
    expected = []
    for row, n in zip(answers(LOGITS), [6, 0, 3], strict=True):
        diversity = max(0.0, 1 + math.log((1 + 3) / (1 + n)))
        expected.append(diversity**1.5 * (1 - max(row)) ** 2)
    found = modulation(LOGITS, COUNTS, diversity=1.5, difficulty=2.0)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_images_of_classes_that_are_rare_in_the_pool_weigh_more():
    frequent, rare, average = modulation(LOGITS, COUNTS, diversity=1.0, difficulty=0.0)
    assert rare > average == 1 > frequent


def test_images_of_a_class_that_crowds_the_pool_weigh_nothing():
    found = modulation(LOGITS, torch.tensor([300, 0, 0]), diversity=1.0, difficulty=0.0)
    assert found[0] == 0 and found[1:].min() > 0


def test_images_that_the_teacher_is_unsure_of_weigh_more():
    medium, sure, unsure = modulation(LOGITS, COUNTS, diversity=0.0, difficulty=1.0)
    assert unsure > medium > sure > 0


def test_with_both_powers_zero_all_images_weigh_the_same():
    assert modulation(LOGITS, COUNTS, 0.0, 0.0).tolist() == [1, 1, 1]


def test_an_empty_pool_has_no_rare_classes():
    assert modulation(LOGITS, torch.zeros(3), 1.0, 0.0).tolist() == [1, 1, 1]


@given(st.integers(0, 2**32), st.floats(0, 3), st.floats(0, 4))
def test_phi_is_finite_and_never_negative(seed, diversity, difficulty):
    logits = 30 * torch.randn(20, 5, generator=rng(seed))
    counts = torch.randint(0, 1000, (5,), generator=rng(seed))
    found = modulation(logits, counts, diversity, difficulty)
    assert found.isfinite().all() and (found >= 0).all()


# The loss of synthesis


def test_the_loss_counts_each_image_with_its_phi():
    weights = {"bn_weight": 3.0, "one_hot_weight": 0.7, "adversarial_weight": 1.3}
    teacher = tiny_teacher()
    classifier = teacher.network.network.classifier
    classifier.weight *= 20  # so that it decides variously
    classifier.bias -= teacher.logits(IMAGES).mean(0)
    started = trial(weights | {"bn_momentum": 0.0, "difficulty": 0.5}, teacher=teacher)
    started.method.pool.add(Shard.of(IMAGES[:5], TARGET[:5]), rng())
    view = started.view(IMAGES, TARGET)
    with started.bench.student.frozen():
        found = started.method.loss(view)
    seen, student = view.teacher, view.student.logits
    pooled = teacher.logits(started.method.pool.images.float() / 255).argmax(1)
    phi = modulation(seen.logits, pooled.bincount(minlength=3), 1.0, 0.5)
    assert phi.std() > 0.1
    expected = (
        3.0 * batch_norm_gap(seen.moments, seen.running)
        + 0.7 * one_hot(seen.logits, TARGET, phi)
        + 1.3 * masked_adversarial(student, seen.logits, phi)
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_no_gradient_flows_through_phi():
    only = {"bn_weight": 0.0, "one_hot_weight": 1.0, "adversarial_weight": 0.0}
    started = trial(only)
    found = started.gradient(IMAGES, TARGET)
    images = IMAGES.clone().requires_grad_()
    logits = started.bench.teacher.logits(images)
    phi = modulation(logits, torch.zeros(3), 1.0, 1.0).detach()
    one_hot(logits, TARGET, phi).backward()
    assert torch.allclose(found, images.grad, atol=1e-7)


def test_without_phi_the_loss_is_that_of_fast():
    off = {"diversity": 0.0, "difficulty": 0.0}
    fast = Trial(Fast, LEARNING | QUICK)
    losses = [t.method.loss(t.view(IMAGES, TARGET)) for t in (trial(off), fast)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


# The pool


def shard(count, start=0):
    """Images that are all `start`, all `start + 1`, ...; so are their labels."""
    labels = torch.arange(start, start + count)
    images = labels.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).to(torch.uint8)
    return Shard(images, labels)


def parity(images):
    """A teacher that sees only whether an image's first pixel is odd."""
    return (images[:, 0, 0, 0] % 2).long()


def pool(shards=(), decide=parity, **values):
    every = {"pool_capacity": 10, "insert_share": 1.0, "priority": 1.0} | values
    made = PriorityPool(build(SsdKdSettings, every, "test"), SHAPE, CPU, decide)
    for new in shards:
        made.add(new, rng())
    return made


@pytest.mark.parametrize(("share", "kept"), [(0.1, 1), (0.5, 4), (1.0, 7)])
def test_a_part_of_a_shard_is_taken_at_least_one_image(share, kept):
    assert len(pool([shard(7)], insert_share=share)) == kept


def test_which_part_is_a_matter_of_chance():
    taken = set()
    for seed in range(30):
        made = pool(insert_share=0.3)
        made.add(shard(7), rng(seed))
        assert len(set(made.labels.tolist())) == 3  # different images
        taken |= set(made.labels.tolist())
    assert taken == set(range(7))


@given(st.lists(st.integers(1, 14), max_size=5), st.floats(0.01, 1))
@example([14], 1.0)  # more than fit
def test_labels_and_decisions_belong_to_their_images_however_the_ring_wraps(counts, share):
    made = pool([shard(count, 20 * k) for k, count in enumerate(counts)], insert_share=share)
    assert len(made.priorities) == len(made.decided) == len(made)
    assert torch.equal(made.labels, made.images[:, 0, 0, 0].long())
    assert torch.equal(made.decided, parity(made.images))


def test_new_images_get_the_highest_priority_that_there_is():
    made = pool([shard(2)])
    assert made.priorities.tolist() == [1, 1]
    made.refresh(torch.tensor([0, 1]), torch.tensor([0.5, 4.0]))
    made.add(shard(3), rng())
    assert made.priorities.tolist() == [0.5, 4, 4, 4, 4]


def test_priorities_of_images_that_gave_way_do_not_count():
    made = pool([shard(2)], pool_capacity=2)
    made.refresh(torch.tensor([0, 1]), torch.tensor([9.0, 2.0]))
    made.add(shard(1), rng())  # in the place of the first
    made.refresh(torch.tensor([0]), torch.tensor([1.0]))
    made.add(shard(1), rng())
    assert made.priorities.tolist() == [1, 2]


@pytest.mark.parametrize(("beta", "odds"), [(1.0, [1, 2, 4, 9]), (0.5, [1, 2**0.5, 2, 3])])
def test_images_are_drawn_in_proportion_to_a_power_of_their_priority(beta, odds):
    made = pool([shard(4)], priority=beta)
    made.refresh(torch.arange(4), torch.tensor([1.0, 2.0, 4.0, 9.0]))
    drawn = made.sample(20_000, rng()).index.bincount(minlength=4) / 20_000
    assert drawn.tolist() == pytest.approx([o / sum(odds) for o in odds], abs=0.015)


def test_an_image_weighs_one_over_how_likely_it_was_over_the_largest_of_the_batch():
    made = pool([shard(4)], priority=0.5)
    made.refresh(torch.arange(4), torch.tensor([1.0, 2.0, 4.0, 9.0]))
    chances = [root / (1 + 2**0.5 + 2 + 3) for root in (1, 2**0.5, 2, 3)]
    weights = [1 / (4 * chance) for chance in chances]
    batch = made.sample(100, rng())
    expected = [weights[i] / max(weights) for i in batch.index.tolist()]
    assert batch.weights.tolist() == pytest.approx(expected, rel=1e-5)


def test_weights_undo_the_bias_of_the_draw():
    made = pool([shard(4)], priority=1.0)
    made.refresh(torch.arange(4), torch.tensor([1.0, 2.0, 4.0, 9.0]))
    batch = made.sample(50_000, rng())
    totals = torch.zeros(4).index_add(0, batch.index, batch.weights)
    assert (totals / totals.mean()).tolist() == pytest.approx([1] * 4, abs=0.06)


def test_at_power_zero_all_images_are_alike():
    made = pool([shard(4)], priority=0.0)
    made.refresh(torch.arange(4), torch.tensor([1.0, 2.0, 4.0, 900.0]))
    batch = made.sample(4000, rng())
    assert batch.weights.min() == 1
    assert batch.index.bincount(minlength=4).min() > 850


def test_of_several_new_priorities_for_one_image_the_highest_counts_even_if_it_is_lower():
    made = pool([shard(3)])
    made.refresh(torch.tensor([1, 1, 1]), torch.tensor([0.2, 0.7, 0.4]))
    assert made.priorities.tolist() == pytest.approx([1, 0.7, 1])


def test_no_image_is_so_dull_that_it_is_never_drawn_again():
    made = pool([shard(2)])
    made.refresh(torch.tensor([0, 1]), torch.tensor([0.0, -1.0]))
    assert made.priorities.tolist() == pytest.approx([FLOOR, FLOOR])


def test_an_empty_pool_says_so():
    with pytest.raises(TrialFailed, match="the pool is empty"):
        pool().sample(3, rng())


def test_a_restored_pool_draws_the_same_batches():
    made, restored = pool([shard(7), shard(7, 50)]), pool()
    made.refresh(torch.arange(5), torch.tensor([0.1, 5.0, 2.0, 0.3, 0.7]))
    restored.restore(made.state())
    one, two = (p.sample(20, rng(1)) for p in (made, restored))
    assert torch.equal(one.index, two.index) and torch.equal(one.weights, two.weights)
    assert torch.equal(made.decided, restored.decided)


# The lesson


def test_a_step_sets_the_priorities_of_its_images_to_divergence_times_phi():
    started = trial({"difficulty": 0.5})
    started.run(range(1))
    method, bench = started.method, started.bench
    batch = method.pool.sample(5, rng())
    before = method.pool.priorities.clone()
    with bench.student.frozen():
        mine, theirs = bench.student.look(batch.images), bench.teacher.look(batch.images)
        method.lesson(batch, mine, theirs)
    counts = method.decisions(method.pool.images).bincount(minlength=3)
    phi = modulation(theirs.logits, counts, 1.0, 0.5).tolist()
    for i, gap, p in zip(
        batch.index.tolist(), divergences(mine.logits, theirs.logits), phi, strict=True
    ):
        assert method.pool.priorities[i].item() == pytest.approx(max(FLOOR, gap * p), rel=1e-3)
    others = torch.ones(len(method.pool), dtype=torch.bool)
    others[batch.index] = False
    assert torch.equal(method.pool.priorities[others], before[others])


@pytest.mark.parametrize("kind", ["kl", "l1"])
def test_the_student_learns_under_the_importance_weights(kind):
    started = trial({"kd_loss": kind, "temperature": 2.0})
    started.run(range(1))
    started.method.pool.refresh(torch.arange(8), torch.linspace(0.1, 5, 8))
    batch, bench = started.method.pool.sample(6, rng()), started.bench
    with bench.student.frozen():
        mine, theirs = bench.student.look(batch.images), bench.teacher.look(batch.images)
        found = started.method.lesson(batch, mine, theirs).item()
    if kind == "kl":
        gaps = [4 * gap for gap in divergences(mine.logits, theirs.logits, 2.0)]
    else:
        gaps = (mine.logits - theirs.logits).abs().mean(1).tolist()
    expected = sum(w * gap for w, gap in zip(batch.weights.tolist(), gaps, strict=True)) / 6
    assert batch.weights.min() < 0.9
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_paper_preset_is_that_of_fast_with_a_tenth_of_cifar_in_the_pool():
    settings = build(SsdKdSettings, SsdKd.presets["paper"], "test")
    assert settings.pool_capacity == 5000
    assert Fast.presets["paper"].items() <= SsdKd.presets["paper"].items()
