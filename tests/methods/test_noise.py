import torch
from method_contract import MethodContract
from workbenches import rng, tiny_teacher

from dfkd.methods.noise import Noise, UniformNoise
from dfkd.methods.shape import ImageShape


class TestNoise(MethodContract):
    method = Noise

    def test_warm_up_passes_idle(self):
        assert self.trial(values={"warmup": 2}).run(range(2)) == [{}, {}]

    def test_the_images_reported_are_those_the_student_was_shown(self):
        (metrics,) = self.trial(values={"kd_steps": 3, "kd_batch_size": 5}).run(range(1, 2))
        assert metrics["images_made"] == 15

    def test_a_teacher_without_batch_norm_is_welcome(self):
        teacher = tiny_teacher(name="convnet-4-nobn")
        assert Noise.objections(Noise.settings_class(), teacher) == []


def test_nobody_asked_for_classes():
    batch = UniformNoise(ImageShape(1, 8, 8)).sample(5, rng())
    assert batch.labels is batch.weights is batch.index is None


def test_pixels_have_the_mean_and_variance_of_the_uniform_distribution():
    images = UniformNoise(ImageShape(3, 8, 12)).sample(500, rng()).images
    assert abs(images.mean() - 1 / 2) < 0.005
    assert abs(images.var() - 1 / 12) < 0.002


def test_neighboring_pixels_are_independent():
    images = UniformNoise(ImageShape(1, 16, 16)).sample(500, rng()).images
    left, right = images[..., :-1].flatten(), images[..., 1:].flatten()
    assert abs(torch.corrcoef(torch.stack([left, right]))[0, 1]) < 0.02


def test_every_draw_is_fresh():
    source, draws = UniformNoise(ImageShape(1, 4, 4)), rng()
    assert not torch.equal(source.sample(5, draws).images, source.sample(5, draws).images)
