import signal

import pytest

from dfkd.orchestrator import clusters


@pytest.fixture
def forgetful_ray(monkeypatch):
    """Ray, not started, but leaving SIGTERM as it does: first with a handler of its own."""
    monkeypatch.setattr(clusters, "use_running_workers", lambda: None)
    monkeypatch.setattr(clusters.ray, "is_initialized", lambda: False)
    handler, default = signal.SIG_IGN, signal.SIG_DFL
    monkeypatch.setattr(clusters.ray, "init", lambda **_: signal.signal(signal.SIGTERM, handler))
    monkeypatch.setattr(clusters.ray, "shutdown", lambda: signal.signal(signal.SIGTERM, default))
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def quiet_variables(monkeypatch):
    """What a cluster sets in the environment goes with the test."""
    for name, value in clusters.QUIET.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("forgetful_ray", "quiet_variables")
def test_a_request_to_end_is_answered_as_before_with_ray_and_after_it():
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with clusters.ray_cluster("local"):
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
