import math

import pytest
import torch
import torch.nn.functional as F
from definitions import answers, kl, softmax
from game_contract import GAME, GameContract
from method_contract import LEARNING
from workbenches import IdleStudent, Trial, rng, same, snapshot

from dfkd.methods.losses import balance, confidence, jensen_shannon
from dfkd.methods.pre_dfkd import PreDfkd, PreDfkdSettings
from dfkd.methods.settings import build

MEMORY = {
    "replay_share": 0.25,
    "memory_width": 2,
    "memory_steps": 1,
    "memory_lr": 0.005,
    "decoder_prior_weight": 0.5,
}
ALONE = {"one_hot_weight": 0.0, "balance_weight": 0.0, "activation_weight": 0.0}
IMAGES = torch.rand(9, 1, 8, 8, generator=rng(), dtype=torch.float64)


class TestPreDfkd(GameContract):
    method = PreDfkd
    quick = GAME | MEMORY
    adversarial = ALONE
    disagreement = jensen_shannon


class Diary(PreDfkd):
    """Writes down how many images the memory learned from, and how many codes were tuned."""

    def __init__(self, settings, bench):
        super().__init__(settings, bench)
        self.lessons, self.tuned, self.calls = [], [], []

    def memory_loss(self, images, rng):
        self.lessons.append(images.detach())
        self.calls.append("memory")
        return super().memory_loss(images, rng)

    def tuned_codes(self, count, rng):
        self.tuned.append(count)
        self.calls.append("codes")
        return super().tuned_codes(count, rng)


def trial(values=None, method=Diary, **bench):
    values = {"warmup": 0, "decoder_prior_weight": 0.0, "shift": 0} | (values or {})
    return Trial(method, LEARNING | GAME | MEMORY | values, **bench)


def remembering(values=None):
    """A method whose memory was trained once."""
    method = trial(values).method
    method.train_memory(method.fresh.sample(8, rng()).images, rng(1))
    method.lessons.clear(), method.tuned.clear()
    return method


# What the generator minimizes


def losses(**values):
    """The loss of a trial in float64, and logits of student and teacher and its features."""
    weights = {"one_hot_weight": 2.0, "balance_weight": 3.0, "activation_weight": 0.7}
    started = trial(weights | {"adversarial_weight": 5.0} | values)
    started.bench.teacher.network.double()
    started.bench.student.network.double()
    with started.bench.student.frozen() as student:
        found = started.method.loss(started.view(IMAGES)).item()
        seen = started.bench.teacher.look(IMAGES)
        return found, student(IMAGES), seen.logits, seen.features


def prior(logits, features):
    """Confident, balanced, active: 2, 3 and 0.7 times."""
    rows = answers(logits)
    sure = -sum(math.log(max(row)) for row in rows) / len(rows)
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    active = sum(abs(value) for value in features.flatten().tolist()) / features.numel()
    return 2 * sure + 3 * sum(p * math.log(p) for p in means) - 0.7 * active


def test_the_loss_is_the_prior_minus_the_exact_jensen_shannon_divergence():
    found, student, teacher, features = losses(js="exact")
    both = zip(answers(student, 3.0), answers(teacher, 3.0), strict=True)
    divergence = 0
    for q, p in both:
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        divergence += (kl(p, middle) + kl(q, middle)) / 2 / len(student)
    assert found == pytest.approx(prior(teacher, features) - 5 * divergence)


def test_the_published_divergence_is_clamped_reversed_and_a_mean_over_classes():
    found, student, teacher, features = losses(js="clamped")
    divergence = 0
    for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax(mine, 3.0), softmax(theirs, 3.0)
        middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        p, q, middle = ([min(max(x, 0.01), 0.99) for x in row] for row in (p, q, middle))
        divergence += (kl(middle, p) + kl(middle, q)) / 2 / student.numel()
    assert found == pytest.approx(prior(teacher, features) - 5 * divergence)


def test_the_adversary_waits_for_the_student():
    started = trial(ALONE)
    assert started.method.loss(started.view(IMAGES.float(), adversarial=False)).item() == 0


# Replay


def test_as_published_128_of_1152_images_are_remembered_and_the_memory_learns_from_640():
    published = PreDfkdSettings()
    sizes = {"kd_batch_size": published.kd_batch_size, "replay_share": published.replay_share}
    started = trial(sizes | {"kd_steps": 2, "student_steps": 2, "memory_steps": 2})
    started.run(range(1))
    method = started.method
    assert [len(images) for images in method.lessons] == [576, 512 + 128]
    # the student's own share of replay, then codes for the memory's second step
    assert method.tuned == [128, 128]
    assert method.source.novel_of(1152) == 1024


def test_novel_images_come_first_and_remembered_ones_fill_the_batch():
    method = remembering({"tune_steps": 0})
    batch, draws = method.source.sample(20, rng(7)), rng(7)
    novel = method.fresh.sample(15, draws)
    codes = method.memory.decoder.draw(5, draws)
    assert torch.equal(batch.images[:15], novel.images)
    assert torch.equal(batch.images[15:], method.memory.recalled(codes))
    assert batch.labels is None


def test_nothing_is_remembered_before_the_memory_was_trained():
    started = trial({"kd_steps": 6, "student_steps": 3, "memory_steps": 2}, student=IdleStudent)
    started.run(range(1))
    assert started.method.calls[:3] == ["memory", "codes", "codes"]
    never = trial({"memory_steps": 0})
    never.run(range(2))
    assert never.method.calls == [] and len(never.method.source.sample(20, rng()).images) == 20


def test_replay_pauses_between_the_epochs_of_rehearsal():
    started = trial({"rehearse_every": 3, "memory_every": 100}, student=IdleStudent)
    asked = []
    for epoch in range(7):
        before = len(started.method.tuned)
        started.run([epoch])
        asked.append(len(started.method.tuned) > before)
    assert asked == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"memory_steps": 2}, [4, 4, 4, 4]),  # two of the three student steps of each turn
        ({"memory_steps": 9}, [6, 6, 6, 6]),
        ({"memory_steps": 0}, [0, 0, 0, 0]),
        ({"memory_steps": 1, "memory_every": 2}, [2, 0, 2, 0]),
    ],
)
def test_the_memory_learns_in_the_first_steps_of_a_turn_in_its_epochs(values, expected):
    started = trial({"kd_steps": 6, "student_steps": 3} | values, student=IdleStudent)
    steps, found = [], []
    started.method.memory_adam.register_step_post_hook(lambda *_: steps.append(1))
    for epoch in range(4):
        started.run([epoch])
        found.append(len(steps))
        steps.clear()
    assert found == expected


def test_in_warm_up_neither_memory_nor_codes_are_asked():
    started = trial({"warmup": 2})
    started.run(range(2))
    assert started.method.calls == [] and not started.method.remembers


def test_what_is_replayed_resembles_what_the_memory_was_trained_on():
    shades = []
    for shade in (0.9, 0.1):
        method = trial({"memory_lr": 0.04, "response_weight": 0.0}).method
        draws = rng(1)
        for _ in range(30):
            noise = 0.1 * torch.rand(16, 1, 8, 8, generator=draws)
            method.train_memory(noise + shade - 0.05, draws)
        shades.append(method.source.sample(40, draws).images[30:].mean().item())
    assert shades == pytest.approx([0.9, 0.1], abs=0.15)


# The memory


def test_the_memorys_loss_is_pixels_plus_responses_plus_divergence():
    weights = {"pixel_weight": 2.0, "response_weight": 3.0, "code_weight": 0.5}
    started = trial(weights)
    images = IMAGES.float()
    remembered, divergence = started.method.memory(images, rng(2))
    logits = [started.bench.teacher.logits(x).flatten().tolist() for x in (remembered, images)]
    responses = sum(abs(a - b) for a, b in zip(*logits, strict=True)) / len(logits[0])
    pixels = (remembered - images).double().abs().mean().item()
    expected = 2 * pixels + 3 * responses + 0.5 * divergence.item()
    assert started.method.memory_loss(images, rng(2)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)], ids=["pixels", "responses"])
def test_training_the_memory_brings_back_what_it_is_weighted_by(weights, digits_teacher):
    pixel, response = weights
    values = {"pixel_weight": pixel, "response_weight": response, "memory_width": 8}
    started = trial(values | {"memory_lr": 0.02}, classes=10, teacher=digits_teacher)
    method, gaps = started.method, []
    patterns = F.interpolate(torch.rand(16, 1, 3, 3, generator=rng(3)), size=(8, 8))
    draws = rng(4)
    for _ in range(2):
        gaps.append(method.memory_loss(patterns, draws).item())
        for _ in range(30):
            method.train_memory(patterns, draws)
    assert gaps[1] < 0.6 * gaps[0]


def test_a_large_divergence_weight_keeps_codes_near_the_standard_normal():
    found = []
    for weight in (0.0, 1.0):
        method, draws = trial({"code_weight": weight, "memory_lr": 0.02}).method, rng(1)
        for _ in range(20):
            method.train_memory(IMAGES.float(), draws)
        found.append(method.memory(IMAGES.float(), draws)[1].item())
    assert found[1] < 0.5 * found[0]


# Codes


def code_loss(method, codes):
    return method.code_loss(codes, method.memory.decoder(codes)).item()


def test_the_codes_loss_without_the_teacher_is_the_distance_of_their_moments():
    method = trial({"one_hot_weight": 0.0, "balance_weight": 0.0}).method
    codes = torch.randn(6, 4, generator=rng(), dtype=torch.float64) * 2 + 1
    gaps = []
    for column in codes.T.tolist():
        mean = sum(column) / 6
        variance = sum((value - mean) ** 2 for value in column) / 6
        gaps.append((variance - 1) ** 2 + mean**2)
    found = method.code_loss(codes, IMAGES[:6].float())
    assert found.item() == pytest.approx(sum(gaps) / 4)


def test_the_codes_loss_adds_the_teachers_confidence_and_balance():
    values = {"one_hot_weight": 2.0, "balance_weight": 3.0, "activation_weight": 9.0}
    plain = trial({"one_hot_weight": 0.0, "balance_weight": 0.0}).method
    method, images = trial(values).method, IMAGES.float()
    codes = torch.randn(9, 4, generator=rng())
    logits = method.bench.teacher.logits(images)
    moments = plain.code_loss(codes, images).item()
    expected = prior(logits, torch.zeros(1)) + moments
    assert method.code_loss(codes, images).item() == pytest.approx(expected, rel=1e-5)


def test_tuning_lowers_the_codes_loss():
    values = {"tune_lr": 0.05, "latent": 8, "memory_width": 4}
    found = []
    for steps in (0, 1, 10):
        method = trial(values | {"tune_steps": steps}).method
        found.append(code_loss(method, method.tuned_codes(20, rng(1))))
    assert found[2] < found[1] < found[0]


@pytest.mark.parametrize(
    ("weight", "measure"),
    [
        ("one_hot_weight", confidence),
        ("balance_weight", lambda logits: math.log(10) + balance(logits)),  # 0 at best
    ],
)
def test_tuned_codes_show_what_the_teacher_is_sure_of_or_takes_for_all_classes(
    weight, measure, digits_teacher
):
    found = []
    for steps in (0, 20):
        values = {"one_hot_weight": 0.0, "balance_weight": 0.0, weight: 10.0, "latent": 16}
        values |= {"tune_steps": steps, "tune_lr": 0.05, "memory_width": 8}
        method = trial(values, classes=10, teacher=digits_teacher).method
        decoder, draws = method.memory.decoder, rng(2)
        for _ in range(40):  # so that its BatchNorm layers remember its own statistics
            decoder(decoder.draw(64, draws))
        shown = method.memory.recalled(method.tuned_codes(30, rng(1)))
        found.append(measure(digits_teacher.logits(shown)).item())
    assert found[1] < 0.8 * found[0]


def test_codes_that_are_not_tuned_are_standard_normal_and_as_drawn():
    method = trial({"tune_steps": 0}).method
    assert torch.equal(method.tuned_codes(50, rng(1)), method.memory.decoder.draw(50, rng(1)))


# The decoder and the codes' loss


def test_tuning_codes_sends_no_gradient_to_the_decoder_and_leaves_it_as_it_was():
    method = remembering({"tune_steps": 3})
    method.memory_adam.zero_grad()
    before = [p.detach().clone() for p in method.memory.parameters()]
    assert not method.tuned_codes(10, rng()).requires_grad
    assert all(p.grad is None for p in method.memory.parameters())
    assert all(map(torch.equal, method.memory.parameters(), before))


ENCODER_ONLY = {"pixel_weight": 0.0, "response_weight": 0.0, "code_weight": 1.0}


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_decoder_learns_from_the_codes_loss_only_if_that_is_weighted(weight):
    method = remembering(ENCODER_ONLY | {"decoder_prior_weight": weight})
    method.train_memory(IMAGES.float(), rng())
    gradients = [p.grad for p in method.memory.decoder.parameters()]
    assert any(g is not None and g.any() for g in gradients) is (weight > 0)
    assert any(p.grad.any() for p in method.memory.encoder.parameters())


def test_a_decoder_trained_on_the_codes_loss_comes_to_show_what_the_teacher_is_sure_of():
    method = remembering(ENCODER_ONLY | {"decoder_prior_weight": 1.0, "memory_lr": 0.01})
    codes, draws, found = method.memory.decoder.draw(40, rng(8)), rng(9), []
    for _ in range(2):
        found.append(code_loss(method, codes))
        for _ in range(30):
            method.train_memory(IMAGES.float(), draws)
    assert found[1] < found[0] - 0.01


def test_the_memory_learns_from_its_own_images_beside_the_novel_ones():
    method = remembering()
    method.train_memory(IMAGES.float(), rng())
    (lesson,) = method.lessons
    assert method.tuned == [2] and torch.equal(lesson[:9], IMAGES.float())
    assert len(lesson) == 9 + 2 and not lesson.requires_grad


# Small batches, and what can go wrong


@pytest.mark.parametrize(
    ("count", "share"), [(2, 0.0), (4, 0.5), (5, 0.5), (8, 0.25), (20, 1 / 9), (4, 0.9)]
)
def test_small_batches_do(count, share):
    started = trial({"kd_batch_size": count, "replay_share": share, "batch_size": 2})
    metrics = started.run(range(3))
    assert all(math.isfinite(value) for m in metrics for value in m.values())


@pytest.mark.parametrize(("count", "share"), [(8, 1 / 9), (2, 0.5)])
def test_a_batch_may_have_a_single_remembered_image(count, share):
    started = trial({"kd_batch_size": count, "replay_share": share})
    assert all(math.isfinite(m["kd_loss"]) for m in started.run(range(2)))


def test_images_can_be_drawn_where_no_gradients_are_kept():
    method = remembering()
    with torch.no_grad():
        assert len(method.source.sample(20, rng()).images) == 20


def test_a_memory_with_nothing_to_learn_stays_as_it_is():
    started = trial({"pixel_weight": 0.0, "response_weight": 0.0, "code_weight": 0.0})
    before = [p.detach().clone() for p in started.method.memory.parameters()]
    started.run(range(1))
    assert all(map(torch.equal, started.method.memory.parameters(), before))


def test_a_memory_that_never_learned_is_not_replayed():
    nothing = {"pixel_weight": 0.0, "response_weight": 0.0, "code_weight": 0.0}
    assert not remembering(nothing).remembers


def test_trials_of_other_seeds_begin_with_other_memories():
    one, two, again = (snapshot(trial(seed=seed).method.memory) for seed in (0, 1, 0))
    assert same(one, again) and not same(one, two)


def test_the_paper_preset_is_what_the_reference_sets_for_cifar_100():
    paper = build(PreDfkdSettings, PreDfkd.presets["paper"], "test")
    mean = torch.tensor([0.2, 0.5, 0.3])
    in_log10 = 5 * (mean * mean.log10()).sum()
    found = paper.balance_weight * balance(mean.log().expand(4, 3))
    assert found.item() == pytest.approx(in_log10.item())
    weights = (paper.one_hot_weight, paper.activation_weight, paper.adversarial_weight)
    assert weights == (1, 0.1, 1) and paper.js == "clamped"
    assert (paper.pixel_weight, paper.response_weight, paper.code_weight) == (1, 1, 1e-5)
    assert (paper.batch_size, paper.kd_batch_size, paper.student_steps) == (1024, 1152, 10)
    assert (paper.memory_steps, paper.memory_lr, paper.generator_lr) == (4, 5e-4, 0.02)
    assert (paper.tune_steps, paper.tune_lr, paper.decoder_prior_weight) == (1, 0.02, 1)
    assert (paper.rehearse_every, paper.memory_every, paper.latent) == (1, 1, 1000)
    assert (paper.student_lr, paper.weight_decay, paper.kd_loss) == (0.1, 5e-4, "l1")
    assert (paper.warmup, paper.shift, paper.flip, paper.clip_norm) == (0, 0, False, 0)
