import numpy as np
import pytest
import torch

from world_model_ros.model.config import ModelConfig
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.training import refine
from world_model_ros.training.refine import AHEAD, refine_predictor

LENGTH = 12


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(refine, "BATCH", 64)
    monkeypatch.setattr(refine, "RATE", 2e-3)


def drift(episodes, seed):
    """Latents that go where actions push them: latents, the blocks leaving them, lengths."""
    generator = torch.Generator().manual_seed(seed)
    push = torch.linspace(-1, 1, 40).view(10, 4).sin()
    blocks = torch.randn(episodes, LENGTH, 10, generator=generator)
    steps = torch.cat([torch.randn(episodes, 1, 4, generator=generator), 0.2 * blocks[:, :-1] @ push], 1)
    return steps.cumsum(1).flatten(0, 1), blocks.flatten(0, 1), np.full(episodes, LENGTH)


def model():
    torch.manual_seed(0)
    config = ModelConfig("conv", 64, 10, 4, 3, 32, 32, 32, 32, 2, 2, 16, 64, 0.1, channels=(8, 16))
    return LeWorldModel(config).eval()


def error(world, latents, blocks, _):
    latents, blocks = latents.view(-1, LENGTH, 4), blocks.view(-1, LENGTH, 10)
    with torch.no_grad():
        imagined = world.rollout(latents[:, :3], blocks[:, :2], blocks[:, None, 2 : 2 + AHEAD])[:, 0]
    return float((imagined - latents[:, 3 : 3 + AHEAD]).square().mean())


def test_refining_improves_what_is_imagined_and_leaves_the_encoder():
    world, unseen = model(), drift(50, 1)
    before, pictures = error(world, *unseen), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        seen = world.encode(pictures)
    refine_predictor(world, *drift(100, 0), steps=150)
    assert error(world, *unseen) < 0.5 * before
    with torch.no_grad():
        assert torch.equal(world.encode(pictures), seen)
    assert not world.training
    assert all(p.requires_grad for p in world.parameters())


def test_equal_seeds_give_equal_predictors_and_leave_torchs_generator_alone():
    found = []
    for _ in range(2):
        world = model()
        torch.manual_seed(3)
        refine_predictor(world, *drift(10, 0), steps=3, seed=4)
        found.append((error(world, *drift(5, 1)), float(torch.rand(1))))
    assert found[0] == found[1]
    torch.manual_seed(3)
    assert found[0][1] == float(torch.rand(1))


def test_short_episodes_are_refused():
    latents, blocks, _ = drift(2, 0)
    with pytest.raises(ValueError, match="8 model steps"):
        refine_predictor(model(), latents, blocks, np.array([7, 5, 7, 5]), steps=1)
