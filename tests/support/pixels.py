"""The plainest inversion: every pixel is a parameter. It writes down what happens."""

import torch
from method_contract import LEARNING
from workbenches import Trial

from dfkd.methods.inversion import Canvas, Inversion, InversionSettings

QUICK = {"batch_size": 7, "synthesis_steps": 2, "warmup_rounds": 3, "rounds": 3}
ALL_TAUGHT = {"held_out": 0.0}  # the student may learn from every image


class Pixels(Inversion):
    settings_class = InversionSettings
    rate = "bn_weight"  # it has no learning rate to lower

    def __init__(self, settings, bench):
        super().__init__(settings, bench)
        self.begun, self.made, self.finished, self.fresh_starts = [], [], [], 0

    def begin(self, target, rng):
        self.begun.append(target)
        shape = self.bench.shape
        size = (len(target), shape.channels, shape.height, shape.width)
        pixels = torch.randn(size, generator=rng).requires_grad_()
        return Witness(
            render=lambda: self.keep(pixels.sigmoid()),
            optimizers=[torch.optim.Adam([pixels], lr=0.1)],
            finished=self.finished,
        )

    def keep(self, images):
        self.made.append(images.detach())
        return images

    def start_over(self, rng):
        self.fresh_starts += 1


class Witness(Canvas):
    def __init__(self, *, finished, **canvas):
        super().__init__(**canvas)
        self.finished = finished

    def finish(self, best):
        self.finished.append(best)


def trial(values=None, method=Pixels, **bench):
    return Trial(method, LEARNING | QUICK | ALL_TAUGHT | (values or {}), **bench)
