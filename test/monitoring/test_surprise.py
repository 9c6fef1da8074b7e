import numpy as np
import pytest
import torch

from world_model_ros.data.normalisation import normalise
from world_model_ros.model.checkpoint import load_checkpoint
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


def test_blocks_that_turn_out_otherwise_are_corrected_from_the_newest_on(checkpoint):
    model, spec = load_checkpoint(checkpoint)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.predictor.parameters():
            weight.normal_(0, 0.1)  # an untrained one ignores the actions
    rng = np.random.default_rng(3)
    latents = rng.normal(size=(spec.history + 1, spec.model.latent_dim)).astype(np.float32)
    wrong, right = rng.uniform(-0.1, 0.1, (2, spec.history, spec.block, spec.action.dim))

    def surprise_of(blocks, corrected=()):
        prediction = OneStepPrediction(model, spec)
        prediction.step(latents[0], None)
        for latent, block in zip(latents[1:-1], blocks[:-1], strict=True):
            prediction.step(latent, block)
        scores = [normalise(block.reshape(-1).astype(np.float32), spec.action) for block in corrected]
        prediction.correct([torch.from_numpy(score) for score in scores])
        return prediction.step(latents[-1], blocks[-1])

    mixed = [*wrong[:-1], right[-1]]
    assert surprise_of(mixed) != surprise_of(right)
    assert surprise_of(mixed, right[:-1]) == surprise_of(right)
    assert surprise_of(mixed, [wrong[0], *right[:-1]]) == surprise_of(
        right
    )  # of more than are known, the newest
