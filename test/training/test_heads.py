import numpy as np
import pytest
import torch

from world_model_ros.model.heads import HORIZON
from world_model_ros.training.heads import (
    fit_inverse_dynamics,
    fit_temporal_distance,
    inverse_metrics,
    temporal_metrics,
)


def circles(episodes, length, seed):
    """Latents that go round circles, 0.3 rad a step, each episode on a circle of its own; their lengths."""
    generator = np.random.default_rng(seed)
    angle = generator.uniform(-np.pi, np.pi, (episodes, 1)) + 0.3 * np.arange(length)
    circle = np.repeat(generator.normal(size=(episodes, 1, 4)), length, 1)
    latents = np.concatenate([2 * np.cos(angle)[..., None], 2 * np.sin(angle)[..., None], circle], -1)
    latents = latents.reshape(-1, 6)
    return torch.tensor(latents, dtype=torch.float32), np.full(episodes, length)


def test_temporal_distance_learns_the_number_of_steps_where_the_squared_distance_bends_back():
    head = fit_temporal_distance(*circles(400, 15, 0), steps=800, hidden=64)
    latents, lengths = circles(50, 15, 1)
    metrics = temporal_metrics(head, latents, lengths)
    assert metrics["temporal_0"] < metrics["temporal_1"] < metrics["temporal_5"]
    assert metrics["temporal_5"] == pytest.approx(5, abs=1.5)
    # half way round and more: the circle comes back, the estimate goes on
    half, more = latents.view(50, 15, 6)[:, 10:].unbind(1)[0], latents.view(50, 15, 6)[:, 13]
    here = latents.view(50, 15, 6)[:, 0]
    assert (more - here).square().sum(-1).mean() < (half - here).square().sum(-1).mean()
    assert head(here, more).mean() > head(here, half).mean()


def test_equal_seeds_give_equal_temporal_heads_and_leave_torchs_generator_alone():
    latents, lengths = circles(20, 8, 0)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = fit_temporal_distance(latents, lengths, steps=3, seed=5, hidden=16)
    assert torch.equal(torch.rand(1), expected)
    again = fit_temporal_distance(latents, lengths, steps=3, seed=5, hidden=16)
    other = fit_temporal_distance(latents, lengths, steps=3, seed=6, hidden=16)
    probe = latents[:1], latents[5:6]
    assert torch.equal(first(*probe), again(*probe))
    assert not torch.equal(first(*probe), other(*probe))


def test_temporal_distance_takes_episodes_of_any_length_but_not_too_few():
    latents, _ = circles(1, 12, 0)
    head = fit_temporal_distance(latents, np.array([3, 1, 8]), steps=2, hidden=16)
    assert float(head(latents[0], latents[1])) >= 0
    with pytest.raises(ValueError, match="two episodes"):
        fit_temporal_distance(latents, np.array([12]), steps=2)
    with pytest.raises(ValueError, match="two frames"):
        fit_temporal_distance(latents, np.array([11, 1]), steps=2)


def walks(episodes, length, seed):
    """A point that goes where its actions say: latents, the blocks leaving them, lengths."""
    generator = torch.Generator().manual_seed(seed)
    heading = torch.randn(episodes, 1, 2, generator=generator)
    blocks = heading + 0.1 * torch.randn(episodes, length, 2, generator=generator)
    moved = torch.cat([torch.zeros(episodes, 1, 2), blocks[:, :-1].cumsum(1)], 1)
    latents = 0.3 * moved + torch.randn(episodes, 1, 2, generator=generator)
    return latents.flatten(0, 1), blocks.flatten(0, 1), np.full(episodes, length)


def test_inverse_dynamics_learns_the_actions_that_lead_from_one_latent_to_another():
    head = fit_inverse_dynamics(*walks(300, 12, 0), steps=600)
    metrics = inverse_metrics(head, *walks(60, 12, 1))
    assert metrics["inverse_1"] > 0.9
    assert metrics["inverse_5"] > 0.9
    start, goal = torch.zeros(2, 2), torch.tensor([[0.6, 0.0], [0.6, 0.0]])
    fast, slow = head(start, goal, torch.tensor([2, 4]))
    assert fast.shape == (HORIZON, 2)
    assert fast[:2, 0].mean() == pytest.approx(1.0, abs=0.25)
    assert slow[:4, 0].mean() == pytest.approx(0.5, abs=0.25)


def test_equal_seeds_give_equal_inverse_heads_and_leave_torchs_generator_alone():
    data = walks(20, 8, 0)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (fit_inverse_dynamics(*data, steps=3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(1), expected)
    probe = data[0][:1], data[0][3:4], torch.tensor([3])
    assert torch.equal(first(*probe), again(*probe))
    assert not torch.equal(first(*probe), other(*probe))


def test_inverse_dynamics_takes_episodes_of_any_length_but_not_single_frames():
    latents, blocks, _ = walks(1, 12, 0)
    head = fit_inverse_dynamics(latents, blocks, np.array([3, 1, 8]), steps=2)
    assert head(latents[0], latents[1], torch.tensor(1)).isfinite().all()
    with pytest.raises(ValueError, match="two frames"):
        fit_inverse_dynamics(latents, blocks, np.ones(12, int), steps=2)
