"""Which actions lead from one latent to another: a guess that planning begins with, never the last word."""

import math

import torch
from torch import Tensor, nn

HORIZON = 5  # blocks that it answers with, as far ahead as a planner looks by default


class InverseDynamics(nn.Module):
    """An MLP on pairs of frozen latents and an arrival time, trained on the episodes' own actions.

    Where several ways lead to the goal, it answers with their mean, which may be none of them: so the
    planner judges its guesses with the world model like any other candidate.
    """

    def __init__(self, latent_dim: int, action_dim: int, hidden: int):
        super().__init__()
        self.action_dim = action_dim
        self.net = nn.Sequential(
            nn.Linear(2 * latent_dim + 2, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, HORIZON * action_dim),
        )

    def forward(self, starts: Tensor, goals: Tensor, arrivals: Tensor) -> Tensor:
        """Return z-scored blocks (..., HORIZON, A) from latents (..., D) to (..., D) in ``arrivals`` steps.

        arrivals (...) are model steps; what an entry says about blocks after its arrival means nothing.
        """
        when = torch.stack([arrivals.clamp(min=1).log() / math.log(20), 1 / arrivals.clamp(min=1)], -1)
        features = torch.cat([starts, goals, when.to(starts.dtype)], dim=-1)
        return self.net(features).unflatten(-1, (HORIZON, self.action_dim))
