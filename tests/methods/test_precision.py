"""What bfloat16 changes, and what it leaves alone."""

import pytest
import torch
from workbenches import CPU, rng, tiny_network, tiny_teacher

from dfkd.methods.generators import Trunk
from dfkd.methods.precision import PRECISIONS, computing
from dfkd.methods.shape import ImageShape
from dfkd.methods.sight import Observer

IMAGES = torch.rand(6, 1, 8, 8, generator=rng())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_pass_computes_in_the_precision_that_is_asked_for(precision):
    with computing(CPU, precision):
        product = torch.rand(2, 3) @ torch.rand(3, 2)
    assert product.dtype == getattr(torch, precision)


def test_whatever_a_network_computed_in_its_sight_is_told_in_float32():
    seen = Observer(tiny_network(), "bfloat16").look(IMAGES)
    told = [seen.logits, seen.features, seen.maps, *seen.stages, *seen.norm_inputs]
    told += [values for layer in seen.moments for values in layer]
    assert len(told) > 8 and all(values.dtype == torch.float32 for values in told)


def test_in_bfloat16_a_teacher_answers_nearly_what_it_answers_otherwise():
    exact = tiny_teacher().logits(IMAGES)
    rounded = tiny_teacher().to(CPU, "bfloat16").logits(IMAGES)
    gap = (rounded - exact).abs().max()
    assert 0 < gap < 0.02 * exact.abs().max()


def test_in_bfloat16_gradients_reach_the_images_in_float32():
    images = IMAGES.clone().requires_grad_()
    tiny_teacher().to(CPU, "bfloat16").look(images).moments[0][1].sum().backward()
    assert images.grad.dtype == torch.float32 and images.grad.abs().amax((1, 2, 3)).min() > 0


def test_images_made_in_bfloat16_are_float32_and_have_more_than_256_levels_between_them():
    trunk = Trunk(4, ImageShape(1, 32, 32), width=8, precision="bfloat16")
    images = trunk(torch.rand(64, 4, generator=rng()))
    assert images.dtype == torch.float32 and len(images.unique()) > 256
    assert all(p.dtype == torch.float32 for p in trunk.parameters())
