import numpy as np
import pytest
import torch

from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig
from world_model_ros.monitoring.surprise import OneStepPrediction

ACTION = ActionSpec(("x", "y"), "twist", "m/s", (0.1, 0.0), (0.5, 0.2), (-1, -1), (1, 1))
SPEC = CheckpointSpec(ModelConfig.small(10), ImageSpec(64), ACTION, 0.05, 5)


class Adding:
    """Predicts that the first number of the latent grows by the mean z-scored action."""

    def predict(self, latents, blocks):
        assert latents.shape[:2] == blocks.shape[:2] == (1, SPEC.history)
        out = latents.clone()
        out[..., 0] += blocks.mean(-1)
        return out


def latent(value):
    return np.full(SPEC.model.latent_dim, value, np.float32)


def block(x):
    """Return a block whose mean z-score is ``x``."""
    return np.tile([0.1 + 0.5 * x, 0.2 * x], (5, 1))


@pytest.fixture
def prediction():
    return OneStepPrediction(Adding(), SPEC)


def test_nothing_is_predicted_until_the_history_is_full(prediction):
    assert prediction.step(latent(0), None) is None
    errors = [prediction.step(latent(0), block(0)) for _ in range(4)]
    assert errors[: SPEC.history - 1] == [None] * (SPEC.history - 1)
    assert all(error == pytest.approx(0) for error in errors[SPEC.history - 1 :])


def test_the_error_is_between_what_was_seen_and_what_the_executed_actions_would_bring(prediction):
    prediction.step(latent(0), None)
    for _ in range(SPEC.history):
        prediction.step(latent(0), block(0))
    seen = latent(0)
    seen[0], seen[1] = 2.0, 3.0
    assert prediction.step(seen, block(1.5)) == pytest.approx(0.5**2 + 3.0**2, rel=1e-5)


def test_a_gap_begins_a_new_history(prediction):
    prediction.step(latent(0), None)
    for _ in range(SPEC.history):
        prediction.step(latent(0), block(0))
    assert prediction.step(latent(9), None) is None
    assert prediction.step(latent(9), block(0)) is None


def test_a_real_model_expects_its_own_prediction():
    from world_model_ros.model.lewm import LeWorldModel

    torch.manual_seed(0)
    model = LeWorldModel(SPEC.model).eval()
    prediction = OneStepPrediction(model, SPEC)
    latents = [torch.randn(SPEC.model.latent_dim) for _ in range(SPEC.history)]
    prediction.step(latents[0].numpy(), None)
    for seen in latents[1:]:
        prediction.step(seen.numpy(), np.tile(ACTION.mean, (5, 1)))
    with torch.inference_mode():
        predicted = model.predict(torch.stack(latents)[None], torch.zeros(1, SPEC.history, 10))[0, -1]
    assert prediction.step(predicted.numpy(), np.tile(ACTION.mean, (5, 1))) == pytest.approx(0, abs=1e-6)
