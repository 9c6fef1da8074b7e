"""A page of one small checkpoint, in a badly named folder."""

import json
import shutil

import pytest

from world_model_ros.cli import main
from world_model_ros.evaluation.report import pictures


@pytest.fixture(scope="module")
def small(checkpoint, tmp_path_factory):
    """Everything short: few frames to look up, a checkpoint with random weights in a badly named folder."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(checkpoint, folder / "<b>bad & worse")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "BANK", 42)
        patch.setattr(pictures, "SIZE", 64)
        yield folder


def _write_run(folder):
    folder.mkdir()
    metrics = {"prediction": 0.1, "copy": 1.0, "ratio": 0.1, "effective_rank": 9.0, "latent_std": 1.0}
    lines = []
    for step in (20, 40, 60):
        lines.append({"step": step, "sigreg": 2.0, "lr": 1e-3, **metrics})
        lines.append({"step": step, "validation": metrics})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 80, "pred')


def _make(folder, *options, name="report.html"):
    words = ["report", "--checkpoint", str(folder / "<b>bad & worse"), "--task", "reach", "--out"]
    return main([*words, str(folder / name), *map(str, options)])


@pytest.fixture(scope="session")
def write_run():
    """Return a function that fills a training's folder, its last line cut short."""
    return _write_run


@pytest.fixture(scope="session")
def make():
    """Return a function that runs `report` on the checkpoint in a folder and returns its exit status."""
    return _make


@pytest.fixture(scope="session")
def largest():
    """Return how many bytes a page may have."""
    return 8e6
