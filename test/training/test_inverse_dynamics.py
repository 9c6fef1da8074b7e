import numpy as np
import pytest
import torch

from world_model_ros.model.inverse_dynamics import HORIZON
from world_model_ros.training.inverse_dynamics import fit_inverse_dynamics, inverse_dynamics_figures


def walks(episodes, length, seed):
    """A point that goes where its actions say: latents, the blocks leaving them, lengths."""
    generator = torch.Generator().manual_seed(seed)
    heading = torch.randn(episodes, 1, 2, generator=generator)
    blocks = heading + 0.1 * torch.randn(episodes, length, 2, generator=generator)
    moved = torch.cat([torch.zeros(episodes, 1, 2), blocks[:, :-1].cumsum(1)], 1)
    latents = 0.3 * moved + torch.randn(episodes, 1, 2, generator=generator)
    return latents.flatten(0, 1), blocks.flatten(0, 1), np.full(episodes, length)


def test_the_head_learns_the_actions_that_lead_from_one_latent_to_another():
    head = fit_inverse_dynamics(*walks(300, 12, 0), steps=600)
    figures = inverse_dynamics_figures(head, *walks(60, 12, 1))
    assert figures["inverse_1"] > 0.9
    assert figures["inverse_5"] > 0.9
    start, goal = torch.zeros(2, 2), torch.tensor([[0.6, 0.0], [0.6, 0.0]])
    fast, slow = head(start, goal, torch.tensor([2, 4]))
    assert fast.shape == (HORIZON, 2)
    assert fast[:2, 0].mean() == pytest.approx(1.0, abs=0.25)
    assert slow[:4, 0].mean() == pytest.approx(0.5, abs=0.25)


def test_equal_seeds_give_equal_heads_and_leave_torchs_generator_alone():
    data = walks(20, 8, 0)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (fit_inverse_dynamics(*data, steps=3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(1), expected)
    probe = data[0][:1], data[0][3:4], torch.tensor([3])
    assert torch.equal(first(*probe), again(*probe))
    assert not torch.equal(first(*probe), other(*probe))


def test_episodes_of_any_length_do_and_single_frames_do_not():
    latents, blocks, _ = walks(1, 12, 0)
    head = fit_inverse_dynamics(latents, blocks, np.array([3, 1, 8]), steps=2)
    assert head(latents[0], latents[1], torch.tensor(1)).isfinite().all()
    with pytest.raises(ValueError, match="two frames"):
        fit_inverse_dynamics(latents, blocks, np.ones(12, int), steps=2)
