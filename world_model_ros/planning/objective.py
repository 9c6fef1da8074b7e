"""What a plan is worth: how near the imagined future comes to the goal, in the latent space."""

from typing import Protocol

import torch
from torch import Tensor


class WorldModel(Protocol):
    """What planning needs of a model."""

    def rollout(self, latents: Tensor, history_actions: Tensor, candidates: Tensor) -> Tensor:
        """(B, T, D), (B, T-1, A), (B, S, H, A) -> (B, S, H, D): the latent after each block."""


class GoalDistance:
    """Cost of candidates: squared L2 between the last imagined latent and the goal's (paper, 3.3).

    latents (B, T, D) and history_actions (B, T-1, A) are the context, goal (B, D) the goal's latent.
    """

    def __init__(self, model: WorldModel, latents: Tensor, history_actions: Tensor, goal: Tensor):
        self.model = model
        self.latents = latents
        self.history_actions = history_actions
        self.goal = goal

    @torch.inference_mode()
    def __call__(self, candidates: Tensor) -> Tensor:
        """Return the costs (B, S) of candidates (B, S, H, A); infinite where the model leaves the finite."""
        if candidates.device.type == "cpu":
            # One problem at a time: matrix products of another size round differently, and a plan must
            # not depend on which other problems happened to be solved beside it.
            last = torch.cat([self._last(slice(i, i + 1), candidates) for i in range(len(candidates))])
        else:
            last = self._last(slice(None), candidates)
        costs = (last - self.goal[:, None]).square().sum(-1)
        return torch.where(costs.isfinite(), costs, torch.inf)

    def _last(self, problems: slice, candidates: Tensor) -> Tensor:
        latents, actions = self.latents[problems], self.history_actions[problems]
        return self.model.rollout(latents, actions, candidates[problems])[:, :, -1]
