"""Pieces of the page, each alone."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from world_model_ros.evaluation.report import imagination, page, plots, report, rollouts
from world_model_ros.evaluation.report.inputs import Result

pytest.importorskip("matplotlib")


def test_a_long_film_of_full_size_stays_within_its_share(largest):
    rng = np.random.default_rng(0)
    scene = np.zeros((240, 240, 3), np.uint8) + rng.integers(60, 200, (12, 12, 3), np.uint8).repeat(
        20, 0
    ).repeat(20, 1)
    frames = [np.roll(scene, 2 * k, 1) for k in range(101)]
    film = rollouts._animation(frames, 50)
    assert film[:4] == b"RIFF"
    assert len(film) * 4 / 3 < largest / 9


def test_measured_problems_that_ended_otherwise_are_found():
    values = {
        "problems": [{"index": i, "seed": i, "start": [0, 0], "goal": [0, 0]} for i in range(9)],
        "outcomes": [{"index": i, "success": i not in (1, 7, 8)} for i in range(9)],
    }
    measured = Result(Path("random.json"), values, datetime.now())
    script = rollouts.read_script("reach", "x", measured, 6)
    assert [p.index for p in script.first] == [0, 1, 2, 3, 4, 5]
    assert {reached: [p.index for p in found] for reached, found in script.others.items()} == {
        False: [7, 8],
        True: [6],
    }


def test_a_verdict_is_shown_in_its_colour():
    shown = report._verdict({"fit": False, "verdict": "not fit <to> plan with"})
    assert 'class="verdict bad"' in shown
    assert "not fit &lt;to&gt; plan with." in shown
    assert report._verdict(None) is None
    assert report._verdict("yes") is None


def test_imagination_finds_the_frame_itself():
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] + np.zeros((5, 4, 4, 3), np.uint8)
    bank = torch.eye(5)
    found = imagination._nearest(bank[[3, 1]] + 0.01, frames, bank)
    assert [f[0, 0, 0] for f in found] == [3, 1]


def test_angles_are_compared_around_the_circle():
    points = {"block angle": {"true": [[179.0], [-170.0]], "predicted": [[-179.0], [175.0]]}}
    assert plots.scatter(points).startswith("<svg")


def test_text_is_escaped_once():
    assert page.text(page.text("<&>")) == "&lt;&amp;&gt;"
