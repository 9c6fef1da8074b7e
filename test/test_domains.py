"""Tests of several runs on one machine do not hear each other."""

import subprocess
import sys

import pytest

from test.processes import DOMAINS, Domain


def test_a_domain_is_ones_own_until_it_is_released():
    claimed = [Domain.claim() for _ in range(20)]
    assert len(set(claimed)) == 20
    assert all(domain in DOMAINS for domain in claimed)
    for domain in claimed:
        domain.release()


def test_a_process_that_inherits_a_domain_keeps_it(monkeypatch):
    domain = Domain.claim()
    monkeypatch.setattr("test.processes.DOMAINS", [domain])
    words = [sys.executable, "-c", "input()"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=(domain.lock,))
    domain.release()
    with pytest.raises(AssertionError, match="in use"):
        Domain.claim(0.3)
    process.communicate(b"\n")
    Domain.claim().release()
