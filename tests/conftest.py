"""What every test stands on. Helpers to import lie in tests/support (see pyproject.toml)."""

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("method_contract", "workbenches")

settings.register_profile("dfkd", max_examples=25, deadline=None, derandomize=True, database=None)
settings.load_profile("dfkd")


def pytest_collection_modifyitems(items):
    """Coverage is measured on the first parameters of a test only.

    It makes Python half as slow again, and further parameters reach little that the first did not:
    what is reported is a little less than what is covered.
    """
    measured = set()
    for item in items:
        name = item.nodeid.partition("[")[0]
        if name in measured:
            item.add_marker(pytest.mark.no_cover)
        measured.add(name)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small tensors gain nothing from more threads, and machines that run tests are shared."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_teacher():
    """A teacher that can really tell 8x8 digits apart; methods leave it untouched."""
    from workbenches import train_digits_teacher

    return train_digits_teacher()


@pytest.fixture(scope="session")
def dfkd_cache(tmp_path_factory):
    """A cache of the session's own, also for the processes that tests start; Ray kept quiet."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFKD_CACHE", str(folder))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else workers give way to all that is busy
        yield folder
