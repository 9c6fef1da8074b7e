import contextlib

import numpy as np
import pytest
import torch

from world_model_ros.data.clips import Clips
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.sim.collect import Recipe, attributes_of, record
from world_model_ros.sim.tasks import make_world
from world_model_ros.training import readiness
from world_model_ros.training.readiness import HORIZON, measure, random_candidates, rank_of_first, verdict

GOOD = {"cost_spread": 0.4, "rank": 0.01, "ratio_1": 0.05, "ratio_5": 0.1, "windows": 64}


@pytest.fixture(scope="module")
def shipped():
    return load_checkpoint("models/reach")


@pytest.fixture(scope="module")
def clips(shipped, tmp_path_factory):
    """Return windows of fresh reach episodes, of a seed that no training used."""
    recipe = Recipe("reach", seed=600_000_000, length=14, size=64)
    path = tmp_path_factory.mktemp("data") / "reach.h5"
    with (
        contextlib.closing(make_world("reach")) as world,
        EpisodeWriter(path, attributes_of(recipe)) as writer,
    ):
        for index in range(8):
            writer.append(*record(world, recipe, index), index=index)
    _, spec = shipped
    with EpisodeFile(path) as file:
        return Clips(file, spec.action, spec.block, spec.history + HORIZON, image_size=spec.image.size)


@pytest.fixture(autouse=True)
def few_windows(monkeypatch):
    monkeypatch.setattr(readiness, "WINDOWS", 16)


def test_shipped_model_is_fit(shipped, clips):
    model, spec = shipped
    metrics = measure(model, spec, clips)
    assert metrics["ready"], metrics
    assert metrics["verdict"].startswith("ready to plan with: cost spread 0.")
    assert metrics["rank"] < 0.05
    assert metrics == measure(model, spec, clips)
    assert not model.training


def test_untrained_model_is_not_fit(shipped, clips):
    _, spec = shipped
    torch.manual_seed(0)
    metrics = measure(LeWorldModel(spec.model), spec, clips)
    assert not metrics["ready"]
    assert metrics["verdict"].startswith("not ready to plan with: cost spread")


def test_model_blind_to_actions_is_not_fit(shipped, clips):
    """It predicts, on average, better than copying, and yet cannot tell one plan from another."""
    trained, spec = shipped
    model = LeWorldModel(spec.model).eval()
    model.load_state_dict(trained.state_dict())
    torch.nn.init.zeros_(model.action_encoder.embed[-1].weight)
    metrics = measure(model, spec, clips)
    assert not metrics["ready"]
    assert metrics["rank"] == pytest.approx(0.5, abs=0.2)
    assert "cost spread 0.00 below 0.10" in metrics["verdict"]


def test_windows_of_another_length_are_refused(shipped, clips):
    model, spec = shipped
    clips.frames += 1
    try:
        with pytest.raises(ValueError, match="windows of 8 frames"):
            measure(model, spec, clips)
    finally:
        clips.frames -= 1


def test_candidates_are_a_planners_first_ones(shipped):
    _, spec = shipped
    drawn = random_candidates(spec, 0, 0)
    assert drawn.shape == (1, 127, 5, 10)
    steps = drawn.reshape(127, 25, 2) * torch.tensor(spec.action.std) + torch.tensor(spec.action.mean)
    assert steps.abs().max() <= 0.4 + 1e-6
    # neighbouring control steps are much alike, those of different candidates are not
    assert np.corrcoef(steps[:, 3, 0], steps[:, 4, 0])[0, 1] > 0.9
    assert torch.equal(drawn, random_candidates(spec, 0, 0))
    assert not torch.equal(drawn, random_candidates(spec, 0, 1))


def test_rank_by_hand():
    assert rank_of_first(np.array([1.0, 2, 3, 4, 5])) == 0.0
    assert rank_of_first(np.array([9.0, 2, 3, 4, 5])) == 1.0
    assert rank_of_first(np.array([3.0, 2, 3, 4, 5])) == pytest.approx(1.5 / 4)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("cost_spread", 0.05, "cost spread 0.05 below 0.10"),
        ("rank", 0.4, "rank of the true actions 0.400 above 0.20"),
        ("ratio_1", 0.7, "prediction over copying at 1 step 0.700 above 0.30"),
        ("ratio_5", 0.9, "prediction over copying at 5 steps 0.900 above 0.60"),
        ("cost_spread", float("nan"), "cost spread nan below 0.10"),
    ],
)
def test_verdict_names_what_is_missing(key, value, said):
    assert verdict(GOOD).startswith("ready to plan with: ")
    assert verdict({**GOOD, key: value}) == f"not ready to plan with: {said}"


def test_verdict_names_everything_that_is_missing():
    text = verdict({**GOOD, "rank": 0.5, "ratio_5": 1.0})
    assert "rank" in text
    assert "5 steps 1.000" in text
