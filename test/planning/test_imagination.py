"""What is imagined ahead, from which context."""

import dataclasses

import numpy as np
import pytest
import torch

from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.imagination import Imagination, actions_ahead, connected
from world_model_ros.planning.timeline import ModelStep

BLOCK, DIM = 5, 2


@pytest.fixture(scope="module")
def spec():
    config = dataclasses.replace(ModelConfig.small(BLOCK * DIM), decoder_width=32, decoder_size=16)
    action = ActionSpec(("linear_x", "linear_y"), "twist", "m/s", (0.1, 0), (0.2, 0.2), (-1, -1), (1, 1))
    return CheckpointSpec(config, ImageSpec(64), action, period=0.05, block=BLOCK)


@pytest.fixture(scope="module")
def imagination(spec):
    torch.manual_seed(0)
    model = LeWorldModel(spec.model).eval()
    with torch.no_grad():
        for weight in model.predictor.parameters():
            weight.normal_(0, 0.1)  # an untrained one ignores the actions
    return Imagination(model, spec)


def step(index, gap=False, executed=0.0):
    block = np.full((BLOCK, DIM), executed)
    return ModelStep(
        index=index,
        start=index,
        due=index + 1,
        stamp=index,
        previous=None if gap else index - 1,
        latency=0,
        latent=np.full(64, index, np.float32),
        executed=None if gap else block,
        known=True,
        running=np.zeros((BLOCK, DIM)),
    )


def test_the_context_is_the_last_steps_without_a_gap():
    steps = [step(k, executed=k) for k in range(5)]
    latents, blocks = connected(steps, 3)
    assert latents[:, 0].tolist() == [2, 3, 4]
    assert blocks[:, 0, 0].tolist() == [3, 4]
    steps[3] = step(3, gap=True)
    latents, blocks = connected(steps, 3)
    assert latents[:, 0].tolist() == [3, 4]
    assert blocks[:, 0, 0].tolist() == [4]
    latents, blocks = connected(steps[:4], 3)
    assert (latents[:, 0].tolist(), blocks.shape) == ([3], (0, BLOCK, DIM))


def test_ahead_are_the_running_block_the_plan_and_standing_still():
    running, plan = np.full((BLOCK, DIM), 1.0), np.full((2 * BLOCK, DIM), 2.0)
    assert actions_ahead(running, plan, 5)[:, 0, 0].tolist() == [1, 2, 2, 0, 0]
    assert actions_ahead(running, plan, 2)[:, 0, 0].tolist() == [1, 2]
    assert actions_ahead(running, None, 2)[:, 0, 0].tolist() == [1, 0]
    assert actions_ahead(running, plan[:3], 2)[1, :, 0].tolist() == [2, 2, 2, 0, 0]


def test_the_two_futures_are_the_models_own_rollouts(imagination, spec):
    rng = np.random.default_rng(0)
    latents, past = rng.normal(size=(3, 64)), rng.normal(size=(2, BLOCK, DIM))
    ahead, goal = rng.normal(size=(4, BLOCK, DIM)), rng.normal(size=64)
    imagined = imagination.imagine(latents, past, ahead, goal)
    assert imagined.now.shape == imagined.goal.shape == (16, 16, 3)
    assert imagined.planned.shape == imagined.still.shape == (4, 16, 16, 3)

    def rolled(actions):
        def z(blocks):
            scaled = (blocks - np.array(spec.action.mean)) / np.array(spec.action.std)
            return torch.tensor(scaled.reshape(len(blocks), -1), dtype=torch.float32)[None]

        context = torch.tensor(latents, dtype=torch.float32)[None]
        with torch.inference_mode():
            return imagination.model.rollout(context, z(past), z(actions)[:, None])[0, 0]

    for actions, pictures, distances in (
        (ahead, imagined.planned, imagined.planned_distances),
        (np.zeros_like(ahead), imagined.still, imagined.still_distances),
    ):
        future = rolled(actions)
        expected = np.concatenate([latents[-1:], future.numpy()])
        np.testing.assert_allclose(distances, ((expected - goal) ** 2).sum(-1), rtol=1e-4)
        shown = imagination.model.decoder.pictures(future).astype(int)
        assert abs(pictures.astype(int) - shown).max() <= 1
    assert (imagined.planned != imagined.still).any()


def test_without_a_goal_nothing_is_measured(imagination):
    ahead = np.zeros((2, BLOCK, DIM))
    imagined = imagination.imagine(np.zeros((1, 64)), np.zeros((0, BLOCK, DIM)), ahead, None)
    assert imagined.goal is imagined.planned_distances is imagined.still_distances is None
    assert np.array_equal(imagined.planned, imagined.still)


def test_a_model_without_decoder_is_refused_with_the_remedy(spec):
    config = dataclasses.replace(spec.model, decoder_width=0, decoder_size=0)
    with pytest.raises(UserError, match="train-heads --decoder"):
        Imagination(LeWorldModel(config), spec)
