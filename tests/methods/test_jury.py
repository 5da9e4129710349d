from dataclasses import replace

import pytest
import torch

from dfkd.methods.jury import (
    AT_ONCE,
    Jury,
    ProbePool,
    Verdict,
    degenerate,
    logits_of,
    sureness,
    together,
)
from dfkd.methods.networks import Normalized, build_network
from dfkd.methods.teacher import Teacher

CLASSES = 4
MEAN, STD = (0.5,), (0.25,)


def network(seed):
    torch.manual_seed(seed)
    built = build_network("convnet-4-8", 1, CLASSES)
    with torch.no_grad():
        built.classifier.weight.mul_(20)  # so that it is sure of something
    return built.eval()


def pool(name, seed, count=60):
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 1, 2, 2), generator=rng)
    images = torch.nn.functional.interpolate(coarse, size=(8, 8))
    return ProbePool(name, (images * 255).to(torch.uint8))


@pytest.fixture
def teacher():
    return Teacher(network(0), MEAN, STD)


@pytest.fixture
def jury(teacher):
    return Jury(teacher, [pool("a", 1), pool("b", 2), pool("c", 3)])


def student(seed):
    return Normalized(network(seed), MEAN, STD).eval()


def verdict(*divergences):
    """By as many pools, called a, b and so on."""
    by_pool = dict(zip("abcdefgh", divergences, strict=False))
    return Verdict(divergences=by_pool, agreements=dict.fromkeys(by_pool, 0.5), fidelity=-99.0)


def test_the_teacher_itself_is_judged_perfect(jury):
    verdict = jury.judge(student(0))
    assert verdict.fidelity == pytest.approx(0, abs=1e-6)
    assert (verdict.agreement, verdict.spread) == (1, pytest.approx(0, abs=1e-6))


def test_a_student_is_judged_by_its_divergence_from_the_teacher(jury, teacher):
    probes = pool("b", 2).images
    p = logits_of(teacher.network, probes).double().softmax(1)
    q = logits_of(student(5), probes).double().softmax(1)
    expected = float((p * (p.log() - q.log())).sum(1).mean())
    verdict = jury.judge(student(5))
    assert verdict.divergences["b"] == pytest.approx(expected, rel=1e-4)
    assert verdict.agreements["b"] == float((p.argmax(1) == q.argmax(1)).float().mean())


def test_each_pool_has_one_vote_however_many_images_it_has(teacher):
    small = Jury(teacher, [pool("a", 1), pool("b", 2)]).judge(student(5))
    large = Jury(teacher, [pool("a", 1), pool("b", 2, count=600)]).judge(student(5))
    for verdict in (small, large):
        a, b = verdict.divergences["a"], verdict.divergences["b"]
        assert verdict.fidelity == pytest.approx(-(a + b) / 2)
        assert verdict.spread == pytest.approx(abs(a - b) / 2)
    assert small.divergences["a"] == large.divergences["a"]


def test_a_pool_that_is_left_out_has_no_say(jury, teacher):
    without = jury.judge(student(5), without={"b"})
    assert without == Jury(teacher, [pool("a", 1), pool("c", 3)]).judge(student(5))


def test_without_any_pool_there_is_no_verdict(jury, teacher):
    assert jury.judge(student(5), without={"a", "b", "c"}) is None
    assert Jury(teacher, []).judge(student(5)) is None


def test_a_student_nearer_to_the_teacher_has_the_higher_fidelity(jury):
    def between(share):
        mixed = student(0)
        with torch.no_grad():
            for mine, other in zip(mixed.parameters(), student(7).parameters(), strict=True):
                mine.lerp_(other, share)
        return jury.judge(mixed).fidelity

    assert between(0.0) > between(0.1) > between(0.3) > between(1.0)


def test_judging_leaves_the_student_as_it_is(jury):
    judged = student(5).eval()
    before = {name: tensor.clone() for name, tensor in judged.state_dict().items()}
    jury.judge(judged)
    assert all(torch.equal(before[name], t) for name, t in judged.state_dict().items())
    assert all(p.grad is None for p in judged.parameters())


def test_a_pool_of_one_class_is_left_out(teacher):
    images = pool("a", 1).images
    surest = logits_of(teacher.network, images).softmax(1).max(1).values.argmax()
    one = images[surest : surest + 1].expand(60, -1, -1, -1)
    jury = Jury(teacher, [ProbePool("mixed", images), ProbePool("one", one)])
    assert (jury.pools, jury.left_out) == (["mixed"], ["one"])


@pytest.mark.parametrize(
    ("classes", "sureness", "expected"),
    [
        ([0, 1, 2, 3, 4], 10.0, False),  # every class, each sure
        ([0, 0, 0, 0, 0], 10.0, True),  # one class
        ([0, 1, 2, 3, 4], 0.1, True),  # no class
        ([0, 0, 1, 1, 2], 10.0, False),  # some classes
    ],
)
def test_pools_of_one_class_and_of_none_are_degenerate(classes, sureness, expected):
    logits = sureness * torch.nn.functional.one_hot(torch.tensor(classes).repeat(20), 5).float()
    assert degenerate(logits) is expected


def test_fewer_images_than_classes_can_still_be_of_all_kinds():
    assert not degenerate(10 * torch.eye(1000)[:50])


def test_the_batches_of_a_large_pool_change_nothing():
    judged, images = student(5).eval(), pool("a", 1, count=AT_ONCE + 7).images
    whole = judged(images.float() / 255).detach()
    assert torch.allclose(logits_of(judged, images), whole, atol=1e-5)


# Students side by side


def test_side_by_side_only_the_fidelity_is_another():
    alone = {"one": verdict(0.1, 0.4), "two": verdict(0.3, 1.2)}
    for name, found in together(alone, {}).items():
        assert found == replace(alone[name], fidelity=found.fidelity)


def test_side_by_side_fidelity_is_minus_the_pools_consensus():
    found = together({"one": verdict(0.1, 0.4, 1.6), "two": verdict(0.2, 0.8, 3.2)}, {})
    assert found["one"].fidelity == pytest.approx(-0.4, rel=1e-3)
    assert found["two"].fidelity == pytest.approx(-0.8, rel=1e-3)


def test_side_by_side_the_pools_of_one_maker_have_one_vote():
    verdicts = {"one": verdict(1, 1, 1, 1, 2, 2), "two": verdict(2, 2, 2, 2, 1, 1)}
    apart, of_one = together(verdicts, {}), together(verdicts, dict.fromkeys("abcd", "maker"))
    assert apart["one"].fidelity > apart["two"].fidelity
    assert of_one["one"].fidelity < of_one["two"].fidelity


def test_nobody_side_by_side_is_nobody():
    assert together({}, {}) == {}


def test_a_choice_that_every_pool_makes_is_sure():
    verdicts = {"far": verdict(1.0, 2.0, 3.0), "near": verdict(0.1, 0.2, 0.3)}
    assert sureness(verdicts, {}, verdicts) == 1


def test_a_choice_between_equals_is_not_sure():
    divergences = [0.1, 0.3, 0.1, 0.3, 0.1, 0.3]
    verdicts = {"one": verdict(*divergences), "two": verdict(*divergences[::-1])}
    assert 0.3 < sureness(verdicts, {}, verdicts) < 0.8


def test_sureness_is_about_the_candidates_alone():
    verdicts = {"a": verdict(0.3, 0.4), "b": verdict(0.5, 0.6), "control": verdict(0.1, 0.1)}
    assert sureness(verdicts, {}, {"a", "b"}) == 1
