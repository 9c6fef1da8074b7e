"""Heads on latents or pairs of them, trained on the frozen latents of a world model (training/)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HORIZON = 5  # blocks that inverse dynamics answers with, as far ahead as a planner looks by default


class TemporalDistance(nn.Module):
    """How many model steps lie between two latents: an MLP, trained on offsets within episodes.

    Latents are close to normal (SIGReg), so far apart their squared distance is flat, or even falls;
    the number of steps between them is not.
    """

    def __init__(self, latent_dim: int, hidden: int):
        super().__init__()
        # Two halves of one layer on the pair: the goal's half is computed once for all latents before it.
        self.start = nn.Linear(latent_dim, hidden)
        self.goal = nn.Linear(latent_dim, hidden, bias=False)
        self.net = nn.Sequential(
            nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )

    def forward(self, starts: Tensor, goals: Tensor) -> Tensor:
        """Return the model steps (...) from latents (..., D) to latents (..., D), which broadcast."""
        return F.softplus(self.net(self.start(starts) + self.goal(goals)).squeeze(-1))


class ObjectDistance(nn.Module):
    """How far apart two latents are in what the robot does not move directly: the distance of two codes.

    Where the robot is decides half of what a latent says, and is not what a goal picture is about: an object
    that has its pose has reached it, wherever the arm is. The codes are small, say nothing of the robot,
    and change only where something else has moved (training/object_distance.py).
    """

    def __init__(self, latent_dim: int, hidden: int, code: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(latent_dim, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, code),
        )

    def encode(self, latents: Tensor) -> Tensor:
        """Return the codes (..., C) of latents (..., D); their mean variance over the training is 1."""
        return self.net(latents)

    def forward(self, starts: Tensor, goals: Tensor) -> Tensor:
        """Return the distance (...) of latents (..., D) and (..., D), which broadcast."""
        return (self.encode(starts) - self.encode(goals)).norm(dim=-1)


class Risk(nn.Module):
    """How probable it is that an event has happened where a latent shows the world: an MLP.

    The event is one that must not happen, such as the fall of what the robot pushes (training/risk.py). On
    the latents that the model imagines, it tells which plans would make it happen.
    """

    def __init__(self, latent_dim: int, hidden: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(latent_dim, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 1),
        )

    def logit(self, latents: Tensor) -> Tensor:
        """Return the logit (...) of the probability at latents (..., D)."""
        return self.net(latents).squeeze(-1)

    def forward(self, latents: Tensor) -> Tensor:
        """Return the probability (...), from 0 to 1, at latents (..., D)."""
        return self.logit(latents).sigmoid()


class Landmarks(nn.Module):
    """Recorded latents, and from which to which of them the robot has moved: a map for far goals.

    Chosen in training/landmarks.py, used by planning/landmarks.py.
    """

    def __init__(self, count: int, latent_dim: int):
        super().__init__()
        self.register_buffer("latents", torch.zeros(count, latent_dim))
        # The temporal distance from the landmark of the row to that of the column; 0 where no edge is known.
        self.register_buffer("edges", torch.zeros(count, count))


class InverseDynamics(nn.Module):
    """Which actions lead from one latent to another: an MLP on the pair and the arrival time.

    It is trained on the episodes' own actions. Where several ways lead to the goal, it answers with their
    mean, which may be none of them: so the planner judges its proposals with the world model like any other
    candidate.
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

        arrivals (...) are model steps; the blocks after the arrival have no meaning.
        """
        when = torch.stack([arrivals.clamp(min=1).log() / math.log(20), 1 / arrivals.clamp(min=1)], -1)
        features = torch.cat([starts, goals, when.to(starts.dtype)], dim=-1)
        return self.net(features).unflatten(-1, (HORIZON, self.action_dim))
