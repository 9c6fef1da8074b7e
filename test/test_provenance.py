import subprocess

import pytest

from world_model_ros.provenance import source_commit


@pytest.fixture(autouse=True)
def forgotten():
    source_commit.cache_clear()
    yield
    source_commit.cache_clear()


def answering(monkeypatch, answers):
    answers = iter(answers)
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess((), 0, stdout=next(answers))
    )


def test_a_run_notes_the_commit_it_began_with(monkeypatch):
    answering(monkeypatch, ["abc\n", "", "def\n", ""])
    assert source_commit() == source_commit() == "abc"


def test_a_changed_tree_is_called_dirty(monkeypatch):
    answering(monkeypatch, ["abc\n", " M file\n"])
    assert source_commit() == "abc-dirty"
