"""The cross-entropy method over sequences of action blocks, and its refinement iCEM.

``CEM.published`` is the paper's solver: white noise, no action limits, the last mean is the plan.
Ours by default: noise correlated in time, candidates inside the action limits, a warm start.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model_ros.planning.solver import Cost, Draw, Limits, SamplingSolver, best


@dataclass(frozen=True)
class CEM(SamplingSolver):
    """Cross-entropy method (paper, 3.3): sample, keep the elites, refit, repeat."""

    @classmethod
    def published(cls, samples: int = 300, elites: int = 30, iterations: int = 30) -> "CEM":
        """Return the paper's solver with its published sizes; give ``solve`` no limits with it."""
        return cls(samples, elites, iterations, initial_std=1.0, correlation=0.0)

    def _refit(self, draw: Draw, candidates: Tensor, costs: Tensor) -> Draw:  # noqa: ARG002
        elites, costs, _ = best(candidates, costs, self.elites)
        return Draw(elites.mean(1), elites.std(1), costs.mean(1))


@dataclass(frozen=True)
class ICEM(SamplingSolver):
    """Sample-efficient CEM (Pinneri et al. 2020, arXiv 2008.06389).

    Beside noise correlated in time and the shifted warm start, which ours always have: a share of the
    elites competes again, each iteration draws fewer candidates, the best one seen is the plan.
    """

    decay: float = 1.25  # the paper's gamma
    kept_share: float = 0.3  # of the elites
    momentum: float = 0.1  # how much of the last mean and spread stays

    def _refit(self, draw: Draw, candidates: Tensor, costs: Tensor) -> Draw:
        elites, costs, indices = best(candidates, costs, self.elites)
        first = draw.kept is None
        kept = elites[:, : max(1, round(self.kept_share * self.elites))]
        momentum = 0.0 if first else self.momentum
        mean = torch.lerp(elites.mean(1), draw.mean, momentum)
        std = torch.lerp(elites.std(1), draw.std, momentum)
        return Draw(mean, std, costs[:, 0], kept, indices[:, 0])

    def _polish(self, draw: Draw, cost: Cost, limits: Limits | None) -> Draw:  # noqa: ARG002
        # The kept ones compete in every iteration, so the first of them is the best of all.
        return Draw(draw.kept[:, 0], draw.std, draw.cost, index=draw.index)
