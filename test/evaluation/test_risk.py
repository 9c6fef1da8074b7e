import dataclasses

import numpy as np
import pytest
import torch

from world_model_ros.errors import UserError
from world_model_ros.evaluation import risk
from world_model_ros.evaluation.risk import Anticipation, measure, summary
from world_model_ros.model.checkpoint import load_checkpoint, save_checkpoint
from world_model_ros.model.config import RiskSpec
from world_model_ros.model.heads import Risk


@pytest.fixture
def watchful(checkpoint, tmp_path):
    """Return a checkpoint of random weights with a risk head."""
    model, spec = load_checkpoint(checkpoint)
    torch.manual_seed(0)
    model.risk = Risk(64, 8)
    spec = dataclasses.replace(
        spec,
        model=dataclasses.replace(spec.model, risk_hidden=8),
        risk=RiskSpec("the glass will fall", "glass_z < 0.16", 0.5),
    )
    return str(save_checkpoint(tmp_path / "watchful", model, spec))


def test_episodes_with_and_without_the_event_are_judged(watchful):
    results = measure(watchful, "glass", n=1)
    assert (results["events"], results["name"]) == (1, "the glass will fall")
    assert results["false_alarms"]["steps"] > 10
    assert "1 episodes with the event and 1 without" in summary(results)
    assert measure(watchful, "glass", n=1) == results


def test_the_shipped_model_announces_the_fall_before_it_happens():
    results = measure("models/glass", "glass", n=2, seed=21)
    assert results["announced"] == 2
    assert results["lead"]["before the event"]["p50"] >= 0.25
    assert max(results["error_over_copying"]) < 0.5


def test_a_checkpoint_without_the_head_is_refused_with_the_remedy(checkpoint):
    with pytest.raises(UserError, match="has no risk head: add one with `train-heads"):
        measure(checkpoint, "glass", n=1)


def test_data_is_refused(watchful, tmp_path):
    with pytest.raises(UserError, match="records its own episodes"):
        measure(watchful, "glass", tmp_path / "data.h5", n=1)


def test_an_announcement_is_early_by_the_time_until_the_pictures_differ(watchful):
    _, spec = load_checkpoint(watchful)
    moves = np.ones(40, np.float32)
    falls = moves.copy()
    falls[31:34] = 9  # pictures 31 and 32 differ: shown at control step 32
    errors = np.array([[1.0, 1, 1, 1], [2.0, 4, 4, 4]])
    early = Anticipation(30, 20, 1, 6, falls, errors)
    late = Anticipation(30, 30, 0, 6, falls, errors)
    missed = Anticipation(30, None, 0, 6, falls, np.full((2, 4), np.nan))
    calm = Anticipation(None, None, 1, 12, moves, np.full((2, 4), np.nan))
    figures = risk._figures([early, late, missed], [calm], spec)
    assert figures["announced"] == 2
    assert figures["lead"]["before the difference"]["p50"] == pytest.approx((12 + 2) / 2 * 0.05)
    assert figures["in_time"]["before the difference"]["share"] == pytest.approx(1 / 3)
    assert figures["in_time"]["before the event"]["share"] == pytest.approx(1 / 3)
    assert figures["shown_by_difference"] == 3
    assert figures["false_alarms"] == {"alarms": 2, "steps": 30, "per_500": pytest.approx(1000 / 30)}
    assert figures["error_over_copying"] == [0.5, 0.25, 0.25, 0.25]


def test_a_difference_over_the_step_of_the_event_shows_it_and_is_no_false_alarm(watchful):
    _, spec = load_checkpoint(watchful)
    falls = np.ones(40, np.float32)
    falls[29] = 9  # between pictures 29 and 30
    figures = risk._figures([Anticipation(30, 20, 0, 6, falls, np.full((2, 4), np.nan))], [], spec)
    assert figures["difference_bound"] == 1
    assert figures["lead"]["before the difference"]["p50"] == pytest.approx(10 * 0.05)
