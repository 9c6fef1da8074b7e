"""A solver that follows the gradient: the world model is differentiable, sampling does not use that."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from world_model_ros.planning.cem import CEM, Cost, Limits, Solution


@dataclass(frozen=True)
class GradientRefinement(CEM):
    """CEM, then a few steps of Adam on its plan; the better of the two is the plan.

    ``cost`` must be differentiable outside of inference mode.
    """

    steps: int = 4
    rate: float = 0.1  # z-scores a step

    capturable: ClassVar[bool] = False  # autograd would have to be recorded with it

    def solve(
        self,
        cost: Cost,
        mean: Tensor,
        noise: Callable[[], Tensor],
        limits: Limits | None = None,
        proposals: Tensor | None = None,
        deadline: float | None = None,
    ) -> Solution:
        """Minimise ``cost`` as ``CEM.solve`` does, then along its gradient."""
        solution = super().solve(cost, mean, noise, limits, proposals, deadline)
        with torch.inference_mode(False), torch.enable_grad():
            plans, costs = self._descend(solution.actions.clone(), cost, limits)
        lowest = costs.argmin(0)  # (B,)
        problems = torch.arange(len(lowest), device=lowest.device)
        plan, cost_of_plan = plans[lowest, problems], costs[lowest, problems]
        evaluated = (
            solution.candidates + 3 * self.steps + 1
        )  # a gradient takes as long as two candidates more
        return replace(solution, mean=plan, actions=plan, cost=cost_of_plan, candidates=evaluated)

    def _descend(self, plan: Tensor, cost: Cost, limits: Limits | None) -> tuple[Tensor, Tensor]:
        """Return the plans (steps + 1, B, H, A) on the way down and their costs (steps + 1, B)."""
        plan.requires_grad_()
        optimiser = torch.optim.Adam([plan], lr=self.rate)
        plans, costs = [], []
        for step in range(self.steps + 1):
            costs_now = cost(plan[:, None])[:, 0]
            plans.append(plan.detach().clone())
            costs.append(costs_now.detach())
            if step < self.steps:
                optimiser.zero_grad()
                (plan.grad,) = torch.autograd.grad(costs_now.sum(), plan)
                optimiser.step()
                if limits is not None:
                    plan.data.clamp_(*limits)
        return torch.stack(plans), torch.stack(costs)
