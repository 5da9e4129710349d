"""A shelf in memory, trials that share by it, and settings with which every inversion is quick."""

from method_contract import LEARNING
from workbenches import Trial, tiny_network

from dfkd.methods import load_method

ROUNDS = LEARNING | {
    "batch_size": 7,
    "synthesis_steps": 2,
    "warmup_rounds": 2,
    "rounds": 1,
    "warmup": 2,
}
SMALL = ROUNDS | {"generator_width": 2, "bn_weight": 1.0, "pool_capacity": 20}
NAYER = SMALL | {"noisy_width": 6, "generator_life": 3, "reinit_every": 2}
FAST = SMALL | {"latent": 4}
PIXELS = ROUNDS | {"pool_capacity": 20, "half_steps": 0.5, "pixel_schedule": "cosine"}
INVERSIONS = {
    "nayer": NAYER,
    "muse": NAYER | {"resolutions": "0.5 1"},
    "fast": FAST,
    "cmi": FAST | {"projection": 4, "bank_size": 30, "negatives": 5},
    "ssd_kd": FAST,
    "deepinversion": PIXELS,
    "adi": PIXELS,
}
SILENT = {  # nobody asks the student while images are made
    name: {"adversarial_weight": 0.0}
    | ({"generator_diversity_weight": 0.0} if name == "muse" else {})
    for name in INVERSIONS
}
EPOCHS = 4  # run in these tests; the first two are warm-up


class DictShelf:
    """Keeps every bundle, and counts."""

    def __init__(self):
        self.open = True
        self.bundles = {}
        self.asked = []  # keys
        self.taken = 0
        self.proceeded = []  # keys, once per step of their synthesis
        self.waived = []

    def take(self, key):
        self.asked.append(key)
        found = self.bundles.get(key)
        self.taken += found is not None
        return found

    def give(self, key, bundle):
        self.bundles[key] = bundle

    def proceed(self, key):
        self.proceeded.append(key)

    def waive(self, key):
        self.waived.append(key)


def trial(name, values=None, **bench):
    """A quick trial of the method called `name`; `seed` is that of the student's first weights."""
    network = tiny_network(seed=bench.pop("seed", "student"))
    settings = INVERSIONS[name] | (values or {})
    return Trial(load_method(name), settings, network=network, **bench)


def ran(name, values=None, **bench):
    """The same after `EPOCHS` epochs."""
    started = trial(name, values, **bench)
    started.run(range(EPOCHS))
    return started
