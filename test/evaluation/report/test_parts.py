"""Pieces of the page, each alone."""

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from world_model_ros.evaluation.recordings import Recording
from world_model_ros.evaluation.report import pictures, plots, report, sections
from world_model_ros.evaluation.report.inputs import Result
from world_model_ros.model.config import ModelConfig, read_spec
from world_model_ros.model.lewm import LeWorldModel

pytest.importorskip("matplotlib")

SECTIONS = (
    "success",
    "rollouts",
    "imagination",
    "open-loop",
    "probing",
    "surprise",
    "robustness",
    "learning",
)
HOW = {"commands": [], "made": "", "commit": "", "trained": "", "results": [], "ignored": []}


def test_a_long_film_of_full_size_stays_within_its_share(largest):
    rng = np.random.default_rng(0)
    scene = np.zeros((240, 240, 3), np.uint8) + rng.integers(60, 200, (12, 12, 3), np.uint8).repeat(
        20, 0
    ).repeat(20, 1)
    frames = [np.roll(scene, 2 * k, 1) for k in range(101)]
    film = pictures.encode_webp(frames, pictures._QUALITY, duration=50, loop=0)
    assert film[:4] == b"RIFF"
    assert len(film) * 4 / 3 < largest / 9


def test_measured_problems_that_ended_otherwise_are_found():
    values = {
        "problems": [{"index": i, "seed": i, "start": [0, 0], "goal": [0, 0]} for i in range(9)],
        "outcomes": [{"index": i, "success": i not in (1, 7, 8)} for i in range(9)],
    }
    measured = Result(Path("random.json"), values, datetime.now())
    script = pictures.read_script("reach", "x", measured, 6)
    assert [p.index for p in script.first] == [0, 1, 2, 3, 4, 5]
    assert {reached: [p.index for p in found] for reached, found in script.others.items()} == {
        False: [7, 8],
        True: [6],
    }


def test_a_verdict_has_its_colour():
    shown = report.verdict({"ready": False, "verdict": "not ready to plan with."})
    assert shown == {"words": "not ready to plan with", "colour": "bad"}
    assert report.verdict({"ready": True, "verdict": "ready"})["colour"] == "good"
    assert report.verdict({"verdict": "unknown"})["colour"] == ""
    assert report.verdict(None) is None
    assert report.verdict("yes") is None


def test_imagination_finds_the_frame_itself():
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] + np.zeros((5, 4, 4, 3), np.uint8)
    bank = torch.eye(5)
    found = pictures.nearest(bank[[3, 1]] + 0.01, frames, bank)
    assert [f[0, 0, 0] for f in found] == [3, 1]


@pytest.mark.parametrize("decoded", [True, False])
def test_imagined_latents_are_shown_by_the_decoder_where_there_is_one(decoded):
    config = ModelConfig(
        **{**vars(ModelConfig.small(2)), "decoder_width": 32 * decoded, "decoder_size": 16 * decoded}
    )
    model = LeWorldModel(config).eval()
    spec = SimpleNamespace(history=3)
    frames = np.random.default_rng(0).integers(0, 256, (2, 12, 64, 64, 3), np.uint8)
    recordings = [Recording(part, np.zeros((11, 2), np.float32), None) for part in frames]
    latents = [torch.randn(12, 64), torch.randn(12, 64)]
    (found,) = pictures.imagine(model, spec, recordings, latents, shown=1, steps=5)
    assert (len(found.real), len(found.seen), len(found.imagined)) == (6, 6, 5)
    assert {frame.shape for frame in found.seen + found.imagined} == {(16, 16, 3) if decoded else (64, 64, 3)}
    if decoded:
        now = next(i for i, frame in enumerate(frames[0]) if np.array_equal(frame, found.real[0]))
        assert np.array_equal(found.seen[0], model.decoder.pictures(latents[0][now]))


@pytest.mark.parametrize("decoded", [True, False])
def test_the_page_says_whether_a_decoder_made_the_pictures(decoded):
    frame = np.zeros((4, 4, 3), np.uint8)
    rollout = pictures.OpenLoopRollout([frame] * 2, [frame] * 2, [frame], [0.1])
    view = sections.imagination([rollout], "episodes", decoded, None)
    page = report.render(
        name="a",
        task="reach",
        parameters=1,
        spec=read_spec("models/reach"),
        training={},
        seconds=0.25,
        verdict=None,
        sections=dict.fromkeys(SECTIONS, None) | {"imagination": view, "missing": {}, "how": HOW},
    )
    assert ("nearest neighbour, not a decoder" in page) is not decoded
    assert ("decoded picture of the imagined latent, step 1" in page) is decoded


def test_angles_are_compared_around_the_circle():
    points = {"block angle": {"true": [[179.0], [-170.0]], "predicted": [[-179.0], [175.0]]}}
    drawn = plots.scatter(points)
    assert drawn.svg.startswith("<svg")
    assert drawn.svg.rstrip().endswith("</svg>")
    assert "<metadata" not in drawn.svg


def test_numbers_and_rates_that_are_missing_are_a_dash():
    assert report.number(1.25, "%.1f s") == "1.2 s"
    assert report.percent(0.25, (0.1, 0.456)) == "25\u00a0% [10, 46]".replace(" ", "\u00a0")
    for missing in (None, float("nan"), "many", True):
        assert report.number(missing, "%.1f") == "–"
        assert report.percent(missing) == "–"
