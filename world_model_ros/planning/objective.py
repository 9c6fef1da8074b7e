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
    With ``any_time`` the smallest distance along the way counts instead of the last one: the moment
    of arrival is then free.
    """

    def __init__(
        self,
        model: WorldModel,
        latents: Tensor,
        history_actions: Tensor,
        goal: Tensor,
        any_time: bool = False,
    ):
        self.model = model
        self.latents = latents
        self.history_actions = history_actions
        self.goal = goal
        self.any_time = any_time

    def __call__(self, candidates: Tensor) -> Tensor:
        """Return the costs (B, S) of candidates (B, S, H, A); infinite where the model leaves the finite."""
        distances = self.distances(candidates)
        costs = distances.amin(-1) if self.any_time else distances[..., -1]
        return torch.where(distances.isfinite().all(-1), costs, torch.inf)

    @torch.inference_mode()
    def distances(self, candidates: Tensor) -> Tensor:
        """Return the squared distance to the goal after each block: (B, S, H)."""
        if candidates.device.type == "cpu":
            # One problem at a time: matrix products of another size round differently, and a plan must
            # not depend on which other problems happened to be solved beside it.
            latents = torch.cat([self._imagine(slice(i, i + 1), candidates) for i in range(len(candidates))])
        else:
            latents = self._imagine(slice(None), candidates)
        return (latents - self.goal[:, None, None]).square().sum(-1)

    def _imagine(self, problems: slice, candidates: Tensor) -> Tensor:
        return self.model.rollout(
            self.latents[problems], self.history_actions[problems], candidates[problems]
        )
