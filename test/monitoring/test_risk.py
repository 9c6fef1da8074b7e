import dataclasses

import numpy as np
import pytest
import torch

from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig, RiskSpec
from world_model_ros.monitoring.risk import LONGEST, RiskForecast

ACTION = ActionSpec(("x", "y"), "twist", "m/s", (0.0, 0.0), (1.0, 1.0), (-1, -1), (1, 1))
MODEL = dataclasses.replace(ModelConfig.small(10), risk_hidden=8)
SPEC = CheckpointSpec(
    MODEL, ImageSpec(64), ACTION, 0.05, 5, risk=RiskSpec("the glass will fall", "z < 0.1", 0.8)
)


class Walking:
    """The first number of a latent is how far the robot has gone; beyond 1 the glass falls."""

    def __init__(self):
        self.asked = None

    def rollout(self, latents, history_actions, candidates):
        self.asked = latents, history_actions, candidates
        way = candidates.unflatten(-1, (5, 2))[..., 0].mean(-1).cumsum(-1)
        out = latents[:, -1:, None].repeat(1, candidates.shape[1], candidates.shape[2], 1)
        out[..., 0] += way
        return out

    def risk(self, latents):
        return (latents[..., 0] - 0.5).clamp(0, 1)


def latent(way):
    out = torch.zeros(64)
    out[0] = way
    return out


@pytest.fixture
def forecast():
    return RiskForecast(Walking(), SPEC)


def plan(steps, speed):
    return np.tile([speed, 0.0], (5 * steps, 1))


def test_the_event_is_announced_with_its_name_its_time_and_its_probability(forecast):
    reason = forecast.step([latent(0.0)], [], plan(3, 0.45))
    assert reason.startswith("the glass will fall: 0.75 s from now")
    assert "(probability 0.85)" in reason
    np.testing.assert_allclose(forecast.probabilities, [0, 0.4, 0.85], atol=1e-6)


def test_a_plan_that_stays_away_is_not_announced(forecast):
    assert forecast.step([latent(0.0)], [], plan(3, 0.3)) == ""
    assert forecast.step([latent(0.0)], [], np.zeros((0, 2))) == ""
    assert forecast.step([], [], plan(3, 1.0)) == ""


def test_an_announcement_lasts_until_the_probability_is_clearly_lower(forecast):
    assert forecast.step([latent(0.0)], [], plan(3, 0.45))
    assert forecast.step([latent(0.0)], [], plan(3, 0.35))  # probability 0.55
    assert not forecast.step([latent(0.0)], [], plan(3, 0.25))
    assert not forecast.step([latent(0.0)], [], plan(3, 0.35))


def test_what_has_happened_is_not_announced(forecast):
    assert forecast.step([latent(0.0)], [], plan(3, 0.45))
    assert forecast.step([latent(1.5)], [], plan(3, 0.45)) == ""


def test_the_model_sees_the_history_and_whole_blocks_of_the_plan(forecast):
    blocks = [torch.full((10,), 0.1)]
    forecast.step([latent(0.0), latent(0.1)], blocks, np.zeros((5 * LONGEST + 12, 2)))
    latents, past, candidates = forecast.model.asked
    assert (latents.shape, past.shape) == ((1, 2, 64), (1, 1, 10))
    assert candidates.shape == (1, 1, LONGEST, 10)
    forecast.step([latent(0.0)], [], np.zeros((8, 2)))
    assert forecast.model.asked[2].shape == (1, 1, 1, 10)


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"risk": RiskSpec()}, "must all be given"),
        ({"model": ModelConfig.small(10)}, "must all be given"),
        ({"risk": dataclasses.replace(SPEC.risk, threshold=1.5)}, "must be a probability"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes, phrase):
    assert SPEC.problems() == []
    assert phrase in "; ".join(dataclasses.replace(SPEC, **changes).problems())
