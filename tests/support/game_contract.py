"""What every game of generator and student owes, beside what every method does."""

from typing import ClassVar

import pytest
import torch
from method_contract import MethodContract
from workbenches import IdleStudent, rng, same, snapshot

GAME = {"batch_size": 8, "student_steps": 2, "generator_width": 2, "latent": 4}


class GameContract(MethodContract):
    quick: ClassVar[dict] = GAME
    disagreement: ClassVar = None
    """What the adversary raises, of the student's logits and the teacher's; None: it has none."""

    def idle(self, values=None, **bench):
        """A trial whose student never learns, so that only the generator moves."""
        values = {"warmup": 0, "generator_lr": 0.01, **(values or {})}
        return self.trial(values=values, student=IdleStudent, **bench)

    def play(self, started, turns, *, adversarial=True):
        """The generator's losses in so many turns."""
        draws = rng(5)
        return [
            started.method.train_generator(adversarial=adversarial, rng=draws).item()
            for _ in range(turns)
        ]

    def test_the_generator_takes_its_turn_before_every_few_student_steps(self):
        started = self.idle({"kd_steps": 7, "student_steps": 3, "generator_steps": 2})
        steps = []
        started.method.adam.register_step_post_hook(lambda *_: steps.append(1))
        started.run(range(1))
        assert len(steps) == 3 * 2

    def test_playing_on_raises_the_disagreement(self):
        if self.disagreement is None:
            pytest.skip("this generator has no adversary")
        started = self.idle(self.adversarial)
        found = [disagreement_of(started, type(self).disagreement)]
        self.play(started, 30)
        found.append(disagreement_of(started, type(self).disagreement))
        assert found[1] > 1.05 * found[0]

    def test_a_generator_without_the_students_opinion_does_not_hear_it(self):
        generators = []
        for factor in (0.5, 3.0):
            started = self.idle()
            for p in started.bench.student.network.classifier.parameters():
                p.data *= factor
            self.play(started, 2, adversarial=False)
            generators.append(snapshot(started.method.generator))
        assert same(*generators)

    def test_the_gradients_norm_is_bounded_if_asked(self):
        started = self.idle({"generator_clip": 1e-3})
        self.play(started, 1)
        gradients = [p.grad for p in started.method.generator.parameters() if p.grad is not None]
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        assert 0 < norm <= 1.001e-3

    def test_each_worker_has_a_generator_of_its_own(self):
        one, two = (self.trial(seed=seed).method.generator for seed in (0, 1))
        assert not same(snapshot(one), snapshot(two))


def disagreement_of(started, disagreement):
    """How far teacher and student are apart on 64 images, always of the same noise."""
    images = started.method.fresh.sample(64, rng(9)).images
    with torch.no_grad(), started.bench.student.frozen() as student:
        return disagreement(student(images), started.bench.teacher.logits(images)).item()
