import numpy as np
import pytest
import torch

from world_model_ros.training.temporal import fit_temporal_distance, temporal_figures


def walks(episodes, length, seed):
    """Latents that go round circles, 0.3 rad a step, each episode on a circle of its own; their lengths."""
    generator = np.random.default_rng(seed)
    angle = generator.uniform(-np.pi, np.pi, (episodes, 1)) + 0.3 * np.arange(length)
    circle = np.repeat(generator.normal(size=(episodes, 1, 4)), length, 1)
    latents = np.concatenate([2 * np.cos(angle)[..., None], 2 * np.sin(angle)[..., None], circle], -1)
    latents = latents.reshape(-1, 6)
    return torch.tensor(latents, dtype=torch.float32), np.full(episodes, length)


def test_the_head_learns_the_number_of_steps_where_the_squared_distance_bends_back():
    head = fit_temporal_distance(*walks(400, 15, 0), steps=800, hidden=64)
    latents, lengths = walks(50, 15, 1)
    figures = temporal_figures(head, latents, lengths)
    assert figures["temporal_0"] < figures["temporal_1"] < figures["temporal_5"]
    assert figures["temporal_5"] == pytest.approx(5, abs=1.5)
    # half way round and more: the circle comes back, the estimate goes on
    half, more = latents.view(50, 15, 6)[:, 10:].unbind(1)[0], latents.view(50, 15, 6)[:, 13]
    here = latents.view(50, 15, 6)[:, 0]
    assert (more - here).square().sum(-1).mean() < (half - here).square().sum(-1).mean()
    assert head(here, more).mean() > head(here, half).mean()


def test_equal_seeds_give_equal_heads_and_leave_torchs_generator_alone():
    latents, lengths = walks(20, 8, 0)
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


def test_episodes_of_any_length_do_and_too_few_do_not():
    latents, _ = walks(1, 12, 0)
    head = fit_temporal_distance(latents, np.array([3, 1, 8]), steps=2, hidden=16)
    assert float(head(latents[0], latents[1])) >= 0
    with pytest.raises(ValueError, match="two episodes"):
        fit_temporal_distance(latents, np.array([12]), steps=2)
    with pytest.raises(ValueError, match="two frames"):
        fit_temporal_distance(latents, np.array([11, 1]), steps=2)
