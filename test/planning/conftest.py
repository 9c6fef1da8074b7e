import time

import pytest


@pytest.fixture
def passing(monkeypatch):
    """Stop the clock of the planning code; return a function that lets seconds pass."""
    now = [time.perf_counter()]

    def passes(seconds):
        now[0] += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return passes
