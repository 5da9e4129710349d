import pytest
import torch
from torch import nn
from workbenches import rng

from dfkd.methods.optimizers import adam, sgd

LAYOUTS = [torch.contiguous_format, torch.channels_last]
PAIRS = {
    "adam": (lambda p: adam(p, 0.1), lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.999))),
    "sgd": (
        lambda p: sgd(p, 0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    ),
}
START = torch.randn(4, 3, 2, 5, generator=rng())
SLOPES = torch.randn(6, 4, 3, 2, 5, generator=rng(1))


def weight(layout):
    return nn.Parameter(START.clone().contiguous(memory_format=layout))


def walked(optimizer, moved, slopes, layout=torch.contiguous_format):
    for slope in slopes:
        moved.grad = slope.clone().contiguous(memory_format=layout)
        optimizer.step()
    return moved.detach()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("of_weight", LAYOUTS)
@pytest.mark.parametrize("of_gradient", LAYOUTS)
def test_steps_are_those_of_the_plain_optimizer_in_any_layout(name, of_weight, of_gradient):
    ours, plain = PAIRS[name]
    mine, other = weight(of_weight), weight(of_weight)
    found = walked(ours([mine]), mine, SLOPES, of_gradient)
    assert torch.allclose(found, walked(plain([other]), other, SLOPES), atol=1e-6)
    assert (found - START).abs().max() > 0.1


@pytest.mark.parametrize("name", PAIRS)
def test_a_state_that_was_kept_in_another_layout_goes_on_alike(name):
    """A checkpoint may give back its tensors in rows."""
    make = PAIRS[name][0]
    whole, first, second = (weight(torch.channels_last) for _ in range(3))
    expected = walked(make([whole]), whole, SLOPES)
    before = make([first])
    walked(before, first, SLOPES[:3])
    saved = before.state_dict()
    for state in saved["state"].values():
        state.update({k: v.contiguous() for k, v in state.items() if torch.is_tensor(v)})
    with torch.no_grad():
        second.copy_(first)
    after = make([second])
    after.load_state_dict(saved)
    assert torch.allclose(walked(after, second, SLOPES[3:]), expected, atol=1e-6)


def test_groups_keep_their_own_rates():
    slow, fast = weight(LAYOUTS[0]), weight(LAYOUTS[0])
    both = adam([{"params": [slow]}, {"params": [fast], "lr": 1.0}], 0.001)
    for p in (slow, fast):
        p.grad = SLOPES[0].clone()
    both.step()
    assert (slow - START).abs().max() < 0.01 < 0.5 < (fast - START).abs().min()
