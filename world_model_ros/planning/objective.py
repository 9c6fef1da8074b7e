"""What a plan is worth: how near the imagined future comes to the goal, in the latent space."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Squared distance a dimension of the latent at which half of WithSquaredDistance's addition is reached;
# between two latents that have nothing to do with each other it is 2 (SIGReg).
_HALF = 0.15


class WorldModel(Protocol):
    """What planning needs of a model."""

    def rollout(self, latents: Tensor, history_actions: Tensor, candidates: Tensor) -> Tensor:
        """(B, T, D), (B, T-1, A), (B, S, H, A) -> (B, S, H, D): the latent after each block."""


def squared_distance(latents: Tensor, goals: Tensor) -> Tensor:
    """Return the squared L2 distance (...) of latents (..., D) and goals (..., D), which broadcast."""
    return (latents - goals).square().sum(-1)


@dataclass(frozen=True)
class WithSquaredDistance:
    """A metric, and near the goal the squared distance beside it.

    A temporal distance is coarse near the goal: what a push of centimetres changes is less than a model
    step. The squared distance tells it, but is flat far away; saturating, it leaves the rest alone.
    """

    metric: Callable[[Tensor, Tensor], Tensor]
    weight: float  # what is added far from the goal, in units of the metric

    def __call__(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Return the distances (...) of latents (..., D) to goals (..., D), which broadcast."""
        squared = squared_distance(latents, goals)
        half = _HALF * latents.shape[-1]
        return self.metric(latents, goals) + self.weight * squared / (squared + half)


@dataclass(frozen=True)
class WithOodPenalty:
    """A metric, and what it costs when imagined latents leave the range of latent norms inwards.

    Where the model cannot tell what will happen, it predicts the mean of what may, and a mean of points on
    a shell lies inside it. Such a future is none: a planner that trusts it presses the stick against the
    edge of the workspace and waits for the block to arrive. From there on nothing that is imagined counts
    for more, so the deepest point so far is what is paid for.
    """

    metric: Callable[[Tensor, Tensor], Tensor]
    low: float  # the norm where the shell begins
    weight: float  # in units of the metric, for each unit of norm

    def __call__(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Return the distances (..., H) of latents (..., H, D), one after the other in time, to goals."""
        inside = (self.low - latents.norm(dim=-1)).clamp_min(0).cummax(-1).values
        return self.metric(latents, goals) + self.weight * inside


class GoalDistance:
    """Cost of candidates: from the last imagined latent to the goal's, squared L2 in the paper (3.3).

    latents (B, T, D) and history_actions (B, T-1, A) are the context, goal (B, D) the goal's latent.
    With ``any_time`` the smallest distance along the way counts instead of the last one, each with
    ``time_cost`` times its model steps added: the moment of arrival is then free. ``metric`` is
    ``squared_distance`` or anything of its shape, such as the model's TemporalDistance.
    """

    def __init__(
        self,
        model: WorldModel,
        latents: Tensor,
        history_actions: Tensor,
        goal: Tensor,
        any_time: bool = False,
        metric: Callable[[Tensor, Tensor], Tensor] = squared_distance,
        time_cost: float = 0.0,
    ):
        self.model = model
        # Copies, because nothing that was made in inference mode can be differentiated through.
        self.latents, self.history_actions, self.goal = (
            values.clone() if values.is_inference() else values for values in (latents, history_actions, goal)
        )
        self.any_time, self.time_cost = any_time, time_cost
        self.metric = metric
        self.imagined: Tensor | None = None  # of the last call, (B, S, H, D)

    def __call__(self, candidates: Tensor) -> Tensor:
        """Return the costs (B, S) of candidates (B, S, H, A); infinite where the model leaves the finite."""
        self.imagined = self.imagine(candidates)
        distances = self.measure(self.imagined)
        costs = self.hurried(distances).amin(-1) if self.any_time else distances[..., -1]
        return torch.where(distances.isfinite().all(-1), costs, torch.inf)

    def hurried(self, distances: Tensor) -> Tensor:
        """Return distances (..., H) with what each model step on the way costs."""
        return distances + self.time_cost * torch.arange(distances.shape[-1], device=distances.device)

    def distances(self, candidates: Tensor) -> Tensor:
        """Return the distance to the goal after each block: (B, S, H)."""
        return self.measure(self.imagine(candidates))

    def measure(self, latents: Tensor) -> Tensor:
        """Return the distance (B, S, H) of imagined latents (B, S, H, D) to the goal."""
        with torch.inference_mode(not latents.requires_grad):
            return self.metric(latents, self.goal[:, None, None])

    def imagine(self, candidates: Tensor) -> Tensor:
        """Return the latent after each block: (B, S, H, D); differentiable where candidates ask for it."""
        with torch.inference_mode(not candidates.requires_grad):
            return self._imagine(candidates)

    def _imagine(self, candidates: Tensor) -> Tensor:
        if candidates.device.type != "cpu":
            return self._rollout(slice(None), candidates)
        # One problem at a time: matrix products of another size round differently, and a plan must not
        # depend on which other problems happened to be solved beside it.
        return torch.cat([self._rollout(slice(i, i + 1), candidates) for i in range(len(candidates))])

    def _rollout(self, problems: slice, candidates: Tensor) -> Tensor:
        return self.model.rollout(
            self.latents[problems], self.history_actions[problems], candidates[problems]
        )
