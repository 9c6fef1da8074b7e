"""A solver that follows the gradient: the world model is differentiable, sampling does not use that."""

from dataclasses import dataclass

import torch
from torch import Tensor

from world_model_ros.planning.cem import CEM
from world_model_ros.planning.solver import Cost, Draw, Limits


@dataclass(frozen=True)
class GradientRefinement(CEM):
    """CEM, then a few steps of Adam on the plan it found; the better of the two is the plan.

    ``cost`` must be differentiable outside of inference mode.
    """

    steps: int = 4
    rate: float = 0.1  # z-scores a step

    @property
    def recordable(self) -> bool:
        """Whether a CUDA graph can hold a solve: autograd would have to be recorded with it."""
        return False

    def effort(self, iterations: int) -> int:
        """Return how many candidates are imagined; a gradient costs two more of them."""
        return super().effort(iterations) + 3 * self.steps + 1

    def _polish(self, draw: Draw, cost: Cost, limits: Limits | None) -> Draw:
        with torch.inference_mode(False), torch.enable_grad():
            seen, costs = self._descend(draw.mean.clone(), cost, limits)
        lowest = costs.argmin(0)  # (B,)
        batch = torch.arange(len(lowest), device=lowest.device)
        return Draw(seen[lowest, batch], draw.std, costs[lowest, batch])

    def _descend(self, plan: Tensor, cost: Cost, limits: Limits | None) -> tuple[Tensor, Tensor]:
        """Return the plans (steps + 1, B, H, A) on the way down and their costs (steps + 1, B)."""
        plan.requires_grad_()
        optimiser = torch.optim.Adam([plan], lr=self.rate)
        seen, costs = [], []
        for step in range(self.steps + 1):
            found = cost(plan[:, None])[:, 0]
            seen.append(plan.detach().clone())
            costs.append(found.detach())
            if step < self.steps:
                optimiser.zero_grad()
                (plan.grad,) = torch.autograd.grad(found.sum(), plan)
                optimiser.step()
                if limits is not None:
                    plan.data.clamp_(*limits)
        return torch.stack(seen), torch.stack(costs)
