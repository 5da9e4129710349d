"""What trials are spared at their start."""

import colorsys
import subprocess
import sys

from dfkd.orchestrator.quick_start import StandIn

SETUP = """
import sys; sys.path[:0] = sys.argv[1:]
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from dfkd.methods.optimizers import sgd
from dfkd.orchestrator.quick_start import spare_the_compiler, without_the_compiler
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
torch.manual_seed(0)
plain, images = torch.nn.Linear(3, 2), torch.randn(5, 3)

def learned(parallel):
    optimizer = sgd(parallel.parameters(), 0.1, 0.9, 0.0)
    for _ in range(3):
        optimizer.zero_grad()
        parallel(images).square().sum().backward()
        optimizer.step()
    return [p.detach().clone() for p in parallel.parameters()]
"""


def run(code):
    """In a process in which nothing has been imported yet."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code, *sys.path], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_networks_in_parallel_learn_the_same_without_the_compiler_which_is_there_when_asked_for():
    run("""
import copy
other = copy.deepcopy(plain)
spare_the_compiler()
with without_the_compiler():
    parallel = DistributedDataParallel(plain)
found = learned(parallel)
assert "torch._dynamo" not in sys.modules
torch._dynamo.config.verbose  # imported now
assert torch._dynamo is sys.modules["torch._dynamo"]
with without_the_compiler():
    assert torch._dynamo is sys.modules["torch._dynamo"]
    usual = DistributedDataParallel(other)
assert parallel._use_python_reducer == usual._use_python_reducer
assert all(map(torch.equal, found, learned(usual)))
""")


def test_what_else_is_asked_of_the_compiler_it_answers_itself():
    stands_in = StandIn("colorsys", hsv_to_rgb="an answer")
    assert stands_in.hsv_to_rgb == "an answer"
    assert stands_in.rgb_to_hsv is colorsys.rgb_to_hsv
