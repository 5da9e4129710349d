import torch
from method_contract import MethodContract
from workbenches import rng, tiny_teacher

from dfkd.methods.generators import ImageShape
from dfkd.methods.noise import Noise, UniformNoise


class TestNoise(MethodContract):
    method = Noise

    def test_warm_up_passes_idle(self):
        assert self.trial(values={"warmup": 2}).run(range(2)) == [{}, {}]

    def test_a_teacher_without_batch_norm_is_welcome(self):
        teacher = tiny_teacher(name="convnet-4-nobn")
        assert Noise.objections(Noise.settings_class(), teacher) == []


def test_pixels_have_the_mean_and_variance_of_the_uniform_distribution():
    images, _ = UniformNoise(ImageShape(3, 8, 12), 4).sample(500, rng())
    assert abs(images.mean() - 1 / 2) < 0.005
    assert abs(images.var() - 1 / 12) < 0.002


def test_neighboring_pixels_are_independent():
    images, _ = UniformNoise(ImageShape(1, 16, 16), 4).sample(500, rng())
    left, right = images[..., :-1].flatten(), images[..., 1:].flatten()
    assert abs(torch.corrcoef(torch.stack([left, right]))[0, 1]) < 0.02


def test_every_draw_is_fresh():
    source, draws = UniformNoise(ImageShape(1, 4, 4), 4), rng()
    assert not torch.equal(source.sample(5, draws)[0], source.sample(5, draws)[0])
