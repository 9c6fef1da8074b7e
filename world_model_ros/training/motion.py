"""Motion in the open: where the robot's own actions took it, as a linear map of how its latents changed.

A latent that predicts well has the robot's place in it, but along curves: an MLP finds it, a linear probe
does not. Actions are known, and what velocities do to a place is linear in time. So a linear map is asked
to tell the actions between any two frames of a clip from the difference of their latents; for that to
work, place itself must lie along straight lines. It is a third term beside the published two, from
pixels and actions like them, and off unless it is given a weight.
"""

from itertools import combinations

import torch
from torch import Tensor, nn


class Motion(nn.Module):
    """Linear map from latents' change to the summed actions between; only training has one."""

    def __init__(self, latent_dim: int, action_dim: int):
        super().__init__()
        self.change = nn.Linear(latent_dim, action_dim, bias=False)
        self.drift = nn.Parameter(torch.zeros(action_dim))  # of every model step: z-scores have a mean of 0

    def forward(self, latents: Tensor, blocks: Tensor) -> Tensor:
        """Return the mean square error, a scalar, over all pairs of frames of clips.

        latents (B, T, D), blocks (B, T, A) z-scored, block t leaving frame t, the last one not used. What
        happens in a block counts as the mean over its control steps.
        """
        width = len(self.drift)
        steps = blocks[:, :-1].unflatten(-1, (-1, width)).mean(-2)
        places = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(1)], dim=1)
        first, second = torch.tensor(list(combinations(range(latents.shape[1]), 2))).T.to(latents.device)
        apart = (second - first)[:, None].to(latents.dtype)
        told = self.change((latents[:, second] - latents[:, first]).float()) + apart * self.drift
        return (told - (places[:, second] - places[:, first])).square().mean()
