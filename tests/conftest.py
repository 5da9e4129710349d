"""What every test stands on. Helpers to import lie in tests/support (see pyproject.toml)."""

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("method_contract", "workbenches")

settings.register_profile("dfkd", max_examples=25, deadline=None, derandomize=True, database=None)
settings.load_profile("dfkd")


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
