import copy
import itertools
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from folders import Crash, InMemory
from hypothesis import given
from hypothesis import strategies as st

from dfkd.methods import pieces
from dfkd.methods.errors import TrialFailed
from dfkd.methods.memory import Pool, Shard
from dfkd.methods.shape import ImageShape
from dfkd.orchestrator import checkpoints
from dfkd.orchestrator.checkpoints import BLOCKS, CHECKPOINT, Pieces, fetch, named, read
from dfkd.orchestrator.storage import Folder

SHAPE = ImageShape(1, 2, 2)
PIECE = 40  # bytes
LONG = 12


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """What is long, and what a piece holds, in bytes that tests can count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "LONG", LONG)
        patch.setattr(pieces, "PIECE", PIECE)
        yield


@pytest.fixture
def folder():
    return InMemory("t000")


def save(folder, state):
    with checkpoints.saving(folder):
        checkpoints.publish(folder, checkpoints.stow(folder, state))


def load(folder):
    return fetch(folder, read(folder))


def blocks(folder):
    return set(folder.child(BLOCKS).files())


def same(one, two):
    """Whether two states are equal to the last bit; Pieces are a list."""
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and one.stride() == two.stride() and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, tuple) or isinstance(two, tuple):
        return type(one) is type(two) and same(list(one), list(two))
    if isinstance(one, list | Pieces):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


# What was saved is what is restored

TENSORS = st.builds(
    lambda rows, width, dtype: torch.arange(rows * width).view(rows, width).to(dtype),
    st.integers(0, 5),
    st.integers(1, 5),
    st.sampled_from([torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.bool]),
)
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.text(max_size=3) | st.booleans()
STATES = st.recursive(
    TENSORS | NUMBERS | st.none(),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(st.text(max_size=2) | st.integers(), parts, max_size=3)
        | st.tuples(parts, parts)
    ),
    max_leaves=12,
)


@given(STATES)
def test_what_was_saved_is_what_is_restored(state):
    folder = InMemory("t000")
    save(folder, state)
    assert same(load(folder), state)


@given(STATES)
def test_saving_changes_no_state(state):
    before = copy.deepcopy(state)
    save(InMemory("t000"), state)
    assert same(state, before)


@given(st.lists(STATES, max_size=3))
def test_nothing_is_left_over_of_earlier_states(states):
    folder = InMemory("t000")
    for state in states:
        save(folder, state)
        assert blocks(folder) == named(read(folder))


@given(STATES)
def test_saving_again_writes_no_block(state):
    folder = InMemory("t000")
    save(folder, state)
    folder.changes.made.clear()
    save(folder, copy.deepcopy(state))
    assert folder.changes.made == [f"write {CHECKPOINT}"]


def test_a_tensor_keeps_its_layout_in_memory(folder):
    weight = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    save(folder, {"weight": weight})
    assert load(folder)["weight"].is_contiguous(memory_format=torch.channels_last)


def test_a_state_dict_stays_one(folder):
    state = torch.nn.BatchNorm2d(3).state_dict()
    save(folder, state)
    restored = load(folder)
    assert isinstance(restored, OrderedDict) and restored._metadata == state._metadata


def test_of_a_view_only_what_it_shows_is_saved(folder):
    save(folder, {"images": torch.zeros(100_000, dtype=torch.uint8)[:3]})
    assert len(folder.read(CHECKPOINT)) < 10_000


def test_where_nothing_was_saved_nothing_is_found(folder):
    assert read(folder) is None


def test_a_restored_state_is_on_the_device_that_was_asked_for(folder):
    save(folder, {"pool": [torch.zeros(20)], "weight": torch.zeros(2)})
    found = fetch(folder, read(folder), "meta")
    assert {found["weight"].device.type, *(piece.device.type for piece in found["pool"])} == {
        "meta"
    }


# Pools


def pool(capacity=0):
    return Pool(SHAPE, capacity, torch.device("cpu"))


def add(to, count, seed=0):
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, 2, 2), generator=draws, dtype=torch.uint8)
    to.add(Shard(images, torch.arange(count)))


def new_blocks(folder):
    """Names of the blocks that were written since this was asked last."""
    made = [what.removeprefix("write ") for what in folder.changes.made if "write" in what]
    folder.changes.made.clear()
    return [name for name in made if name != CHECKPOINT]


@given(st.integers(0, 60), st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_a_restored_pool_holds_the_same(capacity, counts):
    folder, whole, restored = InMemory("t000"), pool(capacity), pool(capacity)
    for seed, count in enumerate(counts):
        add(whole, count, seed)
        save(folder, whole.state())
    restored.restore(load(folder))
    for made in (whole, restored):
        add(made, 7, seed=99)
    assert torch.equal(restored.images, whole.images)
    assert torch.equal(restored.labels, whole.labels)


@given(st.integers(0, 50), st.integers(1, 50))
def test_a_pool_that_grew_costs_its_new_pieces(before, more):
    folder, growing = InMemory("t000"), pool()
    add(growing, before)
    save(folder, growing.state())
    new_blocks(folder)
    add(growing, more, seed=1)
    save(folder, growing.state())
    each = PIECE // 4  # images of a piece
    assert len(new_blocks(folder)) <= -(-(before + more) // each) - before // each


def test_a_full_ring_costs_the_pieces_that_were_written_to(folder):
    ring = pool(100)
    add(ring, 100)
    save(folder, ring.state())
    new_blocks(folder)
    add(ring, 15, seed=1)  # of ten pieces, the first two
    save(folder, ring.state())
    assert len(new_blocks(folder)) == 2 and len(blocks(folder)) == 10


def test_workers_whose_pools_are_alike_write_them_once(folder):
    for rank in range(2):
        same_images = pool()
        add(same_images, 50)
        checkpoints.stow(folder, same_images.state())
        assert len(new_blocks(folder)) == (5 if rank == 0 else 0)


def peak_growth(during):
    """Bytes that the resident memory of this process grew by at most, while something ran."""
    status = Path("/proc/self/status")

    def value(name):
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
        return 1024 * int(line.split()[1])

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = value("VmRSS")
    during()
    return value("VmHWM") - before


def test_to_save_and_restore_a_pool_takes_a_few_pieces_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "LONG", 1_000_000)
    monkeypatch.setattr(pieces, "PIECE", 8_000_000)
    folder, shape = Folder.of(str(tmp_path)), ImageShape(3, 64, 64)
    whole, restored = (Pool(shape, 8192, torch.device("cpu")) for _ in range(2))
    for made in (whole, restored):  # both with all of their memory
        made.add(Shard(torch.zeros(8192, 3, 64, 64, dtype=torch.uint8), torch.arange(8192)))
    whole.images.random_(generator=torch.Generator().manual_seed(0))
    assert whole.bytes > 100_000_000
    assert peak_growth(lambda: save(folder, whole.state())) < 40_000_000
    assert peak_growth(lambda: restored.restore(load(folder))) < 40_000_000
    assert torch.equal(restored.images, whole.images)


# Interruptions

OLD = {"epoch": 1, "pool": [torch.arange(20), torch.arange(20, 40), torch.ones(2)]}
NEW = {"epoch": 2, "pool": [torch.arange(20), torch.arange(30, 50), torch.arange(50, 70)]}


def interrupted(error):
    """Folders in which OLD was saved whole, and the saving of NEW failed at its n-th change."""
    for after in itertools.count():
        folder = InMemory("t000")
        save(folder, OLD)
        try:
            with folder.failing(after, error):
                save(folder, NEW)
        except (Crash, TrialFailed) as failure:
            yield folder, failure
        else:
            if folder.changes.left > 0:  # there were no more changes to fail
                return
            yield folder, None


def test_whenever_a_machine_stops_the_old_checkpoint_or_the_new_one_is_whole():
    found = []
    for folder, _ in interrupted(Crash()):
        state = load(folder)
        assert same(state, OLD) or same(state, NEW)
        found.append(state["epoch"])
    assert found == [1, 1, 1, 2]  # two blocks, the checkpoint, and what is removed after it


def test_the_next_checkpoint_clears_what_a_stopped_machine_left():
    for folder, _ in interrupted(Crash()):
        save(folder, NEW)
        assert blocks(folder) == named(read(folder))


def test_a_resumed_trial_clears_what_a_stopped_machine_left():
    for folder, _ in interrupted(Crash()):
        checkpoints.prune(folder, read(folder))
        assert blocks(folder) == named(read(folder))
        assert load(folder)["epoch"] in (1, 2)


def test_a_full_disk_fails_the_trial_and_leaves_no_more_than_was_there():
    failures = 0
    for folder, failure in interrupted(OSError(28, "No space left on device")):
        if failure is None:  # what could not be removed stays, until next time
            assert same(load(folder), NEW)
            continue
        failures += 1
        assert "No space left on device" in str(failure) and "is intact" in str(failure)
        assert same(load(folder), OLD) and blocks(folder) == named(read(folder))
    assert failures == 3


def test_a_full_disk_before_the_first_checkpoint_leaves_nothing(folder):
    with folder.failing(1, OSError(28, "No space left on device")), pytest.raises(TrialFailed):
        save(folder, OLD)
    assert not folder.contents


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: b"?" + data[1:]])
def test_a_damaged_block_is_an_error_that_says_so(folder, spoil):
    save(folder, OLD)
    path = f"t000/{BLOCKS}/{min(blocks(folder))}"
    folder.contents[path] = spoil(folder.contents[path])
    with pytest.raises(TrialFailed, match=f"{path} is damaged .* remove t000/{CHECKPOINT}"):
        list(load(folder)["pool"])


def test_a_missing_block_is_an_error_that_says_so(folder):
    save(folder, OLD)
    name = min(blocks(folder))
    del folder.contents[f"t000/{BLOCKS}/{name}"]
    with pytest.raises(TrialFailed, match=f"{name} is damaged .it is missing"):
        list(load(folder)["pool"])
