"""Model-predictive path integral control (Williams et al. 2017), Nav2's family of controllers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model_ros.planning.cem import CEM, Solution


@dataclass(frozen=True)
class MPPI(CEM):
    """CEM without elites: every candidate is weighted with exp(-cost / temperature), normalised.

    The temperature is in standard deviations of the candidates' costs, so that it means the same under
    every objective. Further iterations draw around the new mean, each with less spread than the last.
    """

    temperature: float = 0.3
    narrowing: float = 0.7  # of the spread, an iteration

    def _refit(self, last: Solution, candidates: Tensor, costs: Tensor) -> Solution:
        possible = costs.isfinite()
        known = torch.where(possible, costs, 0.0)
        count = possible.sum(1, keepdim=True).clamp(min=1)
        middle = known.sum(1, keepdim=True) / count
        spread = (torch.where(possible, known - middle, 0.0).square().sum(1, keepdim=True) / count).sqrt()
        least = costs.amin(1, keepdim=True)
        scaled = torch.where(possible, (known - least) / (self.temperature * spread + 1e-9), torch.inf)
        weights = torch.softmax(-scaled, dim=1)
        mean = (weights[..., None, None] * candidates).sum(1)
        cost = torch.where(possible.any(1), (weights * known).sum(1), torch.inf)
        return Solution(mean, last.std * self.narrowing, actions=mean, cost=cost)
