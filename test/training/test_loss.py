import pytest
import torch

from world_model_ros.training.loop import Motion


def test_latents_in_which_actions_add_up_cost_nothing():
    motion = Motion(latent_dim=3, action_dim=2)
    blocks = torch.randn(5, 4, 6)  # three control steps of two actions
    places = torch.cat([torch.zeros(5, 1, 2), blocks[:, :-1].view(5, 3, 3, 2).mean(2).cumsum(1)], 1)
    latents = torch.cat([2 * places, torch.randn(5, 1, 1).expand(-1, 4, -1)], -1)
    with torch.no_grad():
        motion.change.weight.copy_(torch.tensor([[0.5, 0, 0], [0, 0.5, 0]]))
    assert motion(latents, blocks).item() < 1e-10
    assert motion(latents.square(), blocks).item() > 0.1


def test_a_constant_drift_of_the_mean_action_is_learned_apart():
    motion = Motion(latent_dim=2, action_dim=1)
    with torch.no_grad():
        motion.change.weight.zero_()
        motion.drift.fill_(1.0)
    assert motion(torch.randn(3, 4, 2), torch.ones(3, 4, 2)).item() == pytest.approx(0)


def test_the_last_block_is_not_used():
    motion = Motion(latent_dim=2, action_dim=1)
    latents, blocks = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    other = blocks.clone()
    other[:, -1] = torch.nan
    assert motion(latents, blocks).item() == motion(latents, other).item()
