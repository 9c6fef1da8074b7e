from pathlib import Path

import numpy as np
import pytest
import torch

from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig
from world_model_ros.model.lewm import LeWorldModel

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

TINY = ModelConfig(
    encoder="vit",
    image_size=28,
    action_dim=10,
    latent_dim=16,
    history=3,
    encoder_width=48,
    projector_hidden=64,
    action_hidden=64,
    predictor_width=16,
    predictor_depth=2,
    predictor_heads=4,
    predictor_head_dim=8,
    predictor_mlp=32,
    dropout=0.0,
    action_mixed=10,
    patch_size=14,
    encoder_depth=2,
    encoder_heads=3,
    encoder_mlp=192,
)

ACTION = ActionSpec(
    names=("linear_x", "linear_y"),
    kind="twist",
    unit="m/s",
    mean=(0.01, -0.02),
    std=(0.1, 0.2),
    low=(-0.4, -0.4),
    high=(0.4, 0.4),
    frame="panda_link0",
)


class Golden:
    """Arrays of lewm_tiny.npz as tensors, and the tiny model they belong to."""

    folder = GOLDEN
    config = TINY

    def __init__(self):
        self._arrays = np.load(GOLDEN / "lewm_tiny.npz")

    def __getitem__(self, key):
        return torch.from_numpy(self._arrays[key])

    def group(self, prefix):
        return {k[len(prefix) :]: self[k] for k in self._arrays.files if k.startswith(prefix)}

    def model(self, train=False):
        model = LeWorldModel(TINY)
        model.load_state_dict(self.group("a/sd/"))
        return model.train(train)


@pytest.fixture(scope="session")
def golden():
    return Golden()


@pytest.fixture
def tiny_spec():
    return CheckpointSpec(model=TINY, image=ImageSpec(28), action=ACTION, period=0.05, block=5)


@pytest.fixture
def tiny_model():
    torch.manual_seed(0)
    return LeWorldModel(TINY).eval()


class Payload:
    """What a pickle runs where somebody loads it: it leaves a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def payload():
    """Return the class of a hostile object, made with the path that it touches."""
    return Payload
