"""How many model steps lie between two latents: what the squared distance does not say far from the goal."""

import torch.nn.functional as F
from torch import Tensor, nn


class TemporalDistance(nn.Module):
    """An MLP on pairs of frozen latents, trained on offsets within episodes (training/temporal.py).

    Latents are close to normal (SIGReg), so far apart their squared distance is flat, or even falls;
    the number of steps between them is not.
    """

    def __init__(self, latent_dim: int, hidden: int):
        super().__init__()
        # Two halves of one layer on the pair: a goal's half is computed once for all that lead to it.
        self.start = nn.Linear(latent_dim, hidden)
        self.goal = nn.Linear(latent_dim, hidden, bias=False)
        self.net = nn.Sequential(
            nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )

    def forward(self, starts: Tensor, goals: Tensor) -> Tensor:
        """Return the model steps (...) from latents (..., D) to latents (..., D), which broadcast."""
        return F.softplus(self.net(self.start(starts) + self.goal(goals)).squeeze(-1))
