"""The cost of a plan: how near the imagined future comes to the goal, in the latent space.

Shapes: B problems, S candidates, H horizon in blocks, A one action block (z-scored), D latent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from world_model_ros.errors import UserError
from world_model_ros.planning.config import PlannerConfig

Metric = Callable[
    [Tensor, Tensor], Tensor
]  # latents (..., D) and goals (..., D), broadcast -> distances (...)

# Squared distance a dimension of the latent at which half of WithSquaredDistance's addition is reached;
# between two latents that have nothing to do with each other it is 2 (SIGReg).
_HALF = 0.15
# How many candidates, the cheapest ones, are judged by the ensemble and by the risk of nearly the plan too.
_JUDGED = 16
# Of the risk of nearly the plan: how far ahead at least in model steps, by how much the first block is
# shifted, z-scored, and what it counts beside the plan's own risk. Counted in full it kept the glass from
# goals near the edge: 33 of 50 were reached, not 45 (models/glass, protocol edge, seed 31).
_RISK_STEPS, _RISK_SHIFT, RISK_SHARE = 4, 0.2, 0.1


class WorldModel(Protocol):
    """What planning needs of a model."""

    def rollout(self, latents: Tensor, history_actions: Tensor, candidates: Tensor) -> Tensor:
        """(B, T, D), (B, T-1, A), (B, S, H, A) -> (B, S, H, D): the latent after each block."""


def make_metric(
    config: PlannerConfig,
    heads: dict[str, Metric | None],
    norm_low: float | None,
    risk: Callable[[Tensor], Tensor] | None = None,
) -> Metric:
    """Return the distance to the goal that a plan is judged by, as a resolved ``config`` asks for it.

    heads are the checkpoint's distances by the name of the objective, None for one that it lacks; norm_low
    is the smallest norm of its latents in training, or None where it has none; risk is its risk head, if any.
    Raises UserError where the head is needed and missing.
    """
    metric = heads.get(config.objective, squared_distance)
    if metric is None:
        raise UserError(
            f"the checkpoint has no {config.objective}-distance head: train it with one, or plan with "
            "objective squared."
        )
    if config.squared_distance_weight:
        metric = WithSquaredDistance(metric, config.squared_distance_weight)
    if config.ood_penalty and norm_low is not None:
        metric = WithOodPenalty(metric, norm_low, config.ood_penalty)
    if config.risk_penalty and risk is not None:
        metric = WithRiskPenalty(metric, risk, config.risk_penalty)
    return metric


def squared_distance(latents: Tensor, goals: Tensor) -> Tensor:
    """Return the squared L2 distance (...) of latents (..., D) and goals (..., D), which broadcast."""
    return (latents - goals).square().sum(-1)


@dataclass(frozen=True)
class WithSquaredDistance:
    """A metric, and near the goal the squared distance beside it.

    A temporal distance is coarse near the goal: what a push of centimetres changes is less than a model
    step. The squared distance resolves it, but is flat far away; saturating, it leaves the rest alone.
    """

    metric: Metric
    weight: float  # what is added far from the goal, in units of the metric

    def __call__(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Return the distances (...) of latents (..., D) to goals (..., D), which broadcast."""
        squared = squared_distance(latents, goals)
        half = _HALF * latents.shape[-1]
        return self.metric(latents, goals) + self.weight * squared / (squared + half)


@dataclass(frozen=True)
class WithOodPenalty:
    """A metric, and a penalty for imagined latents whose norm is below the range of latent norms.

    Latents of real frames have norms within a narrow range. Where the model cannot tell what will happen,
    it predicts the mean of several possible latents, whose norm is smaller. Such a future does not exist,
    and a planner that relies on it chooses actions that do not work, such as pressing against the edge of
    the workspace. All that is imagined after such a latent is unreliable too, so the penalty is for the
    smallest norm so far.
    """

    metric: Metric
    low: float  # the lower end of the range
    weight: float  # in units of the metric, for each unit of norm

    def __call__(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Return the distances (..., H) of latents (..., H, D), one after the other in time, to goals."""
        below = (self.low - latents.norm(dim=-1)).clamp_min(0).cummax(-1).values
        return self.metric(latents, goals) + self.weight * below


@dataclass(frozen=True)
class WithRiskPenalty:
    """A metric, and a penalty for the probability that an event happens.

    The penalty is for the largest probability within the horizon, also where the goal is reached before it:
    a robot that arrives with nothing but the event ahead has no other plan left.
    """

    metric: Metric
    risk: Callable[[Tensor], Tensor]  # latents (..., D) -> probabilities (...)
    weight: float  # in units of the metric, for a certain event

    def __call__(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Return the distances (..., H) of latents (..., H, D), one after the other in time, to goals."""
        return self.metric(latents, goals) + self.weight * self.risk(latents).amax(-1, keepdim=True)


@dataclass(frozen=True)
class RiskOfVariants:
    """The probability that an event happens where a plan is not executed quite as planned.

    What a push does depends on where it meets the object: a plan that the model takes past an edge may lead
    over it when the robot is a centimetre beside. So the plan is imagined with its first block shifted, once
    in each of several directions, and what follows as planned; after a short plan the robot stands still,
    so that what it has set in motion is seen to its end.
    """

    risk: Callable[[Tensor], Tensor]  # latents (..., D) -> probabilities (...)
    weight: float  # in units of the metric, for an event that is certain in all variants
    shifts: Tensor  # (K, A), z-scored
    limits: tuple[Tensor, Tensor]  # lowest and highest z-scored action block (A,)
    still: Tensor  # (A,), the block of standing still

    def __call__(self, imagine: Callable[[Tensor], Tensor], candidates: Tensor) -> Tensor:
        """Return the penalties (B, S) of candidates (B, S, H, A); ``imagine`` is ``GoalDistance.imagine``."""
        problems, count, horizon, width = candidates.shape
        tail = self.still.expand(problems, count, max(0, _RISK_STEPS - horizon), width)
        rest = torch.cat([candidates[:, :, 1:], tail], dim=2)
        first = (candidates[:, :, None, :1] + self.shifts[:, None]).clamp(*self.limits)
        rest = rest[:, :, None].expand(-1, -1, len(self.shifts), -1, -1)
        variants = torch.cat([first, rest], dim=3)
        with torch.inference_mode(not candidates.requires_grad):
            probabilities = self.risk(imagine(variants.flatten(1, 2))).amax(-1)
        return self.weight * probabilities.unflatten(1, (count, len(self.shifts))).mean(-1)


def shifts(count: int, block: int, dim: int) -> Tensor:
    """Return ``count`` shifts (count, A) of a block of ``block`` control steps of ``dim`` numbers, z-scored.

    Each control step is shifted alike, each of its numbers by the same amount up or down; the second of two
    neighbouring shifts is the first one reversed, and different pairs are orthogonal where dim allows it.
    """
    signs = [
        [(-1.0) ** ((pair & i).bit_count() + reverse) for i in range(dim)]
        for pair in range(-(-count // 2))
        for reverse in (0, 1)
    ]
    return _RISK_SHIFT * torch.tensor(signs[:count]).reshape(-1, dim).repeat(1, block)


class GoalDistance:
    """Cost of candidates: from the last imagined latent to the goal's, squared L2 in the paper (3.3).

    latents (B, T, D) and history_actions (B, T-1, A) are the context, goal (B, D) the goal's latent.
    ``metric`` is ``squared_distance`` or anything of its shape, such as the model's TemporalDistance.
    With ``free_arrival`` the smallest distance along the way counts instead of the last one, each with
    ``time_cost`` times its model steps added.
    ``still`` (A,) is the block of standing still: it is imagined beside the first candidates (alone it would
    take as long as ten of them), ``still_latent`` (B, 1, 1, D) is the latent after one block of it and
    ``still_distance`` (B,) the distance.

    Among many candidates the cheapest one is one that the model is wrong about (the optimiser's curse). So
    the cheapest are imagined by each predictor of ``ensemble`` too, and the mean of the distances counts
    (as in PETS, Chua et al. 2018, arXiv 1805.12114); the other candidates rank behind these. ``variants``
    adds the risk of what is nearly the plan for the cheapest ones; the others count as if it were certain.
    """

    def __init__(
        self,
        model: WorldModel,
        latents: Tensor,
        history_actions: Tensor,
        goal: Tensor,
        metric: Metric = squared_distance,
        free_arrival: bool = False,
        time_cost: float = 0.0,
        still: Tensor | None = None,
        variants: RiskOfVariants | None = None,
        ensemble: Sequence[WorldModel] = (),
    ):
        self.model, self.variants, self.ensemble = model, variants, ensemble
        # Copies, because nothing that was made in inference mode can be differentiated through.
        self.latents, self.history_actions, self.goal = (
            values.clone() if values.is_inference() else values for values in (latents, history_actions, goal)
        )
        self.metric, self.free_arrival, self.time_cost, self.still = metric, free_arrival, time_cost, still
        self.still_latent: Tensor | None = None
        self.still_distance: Tensor | None = None
        self.imagined: Tensor | None = None  # of the last call, (B, S, H, D) or more
        self.distances: Tensor | None = None  # of the last call, (B, S, H) or more, with every penalty
        self.candidates: Tensor | None = None  # of the last call, (B, S, H, A)

    def __call__(self, candidates: Tensor) -> Tensor:
        """Return the costs (B, S) of candidates (B, S, H, A); infinite where the model leaves the finite."""
        self.candidates = candidates
        if self.still is None or self.still_latent is not None:
            return self.evaluate(candidates)
        still = self.still.expand(len(candidates), 1, *candidates.shape[2:])
        costs = self.evaluate(torch.cat([candidates, still], dim=1), last_is_still=True)
        self.still_latent, self.still_distance = self.imagined[:, -1:, :1], self.distances[:, -1, 0]
        return costs[:, :-1]

    def evaluate(self, candidates: Tensor, last_is_still: bool = False) -> Tensor:
        """Return the costs (B, S) of candidates (B, S, H, A); keep what was imagined, and the distances."""
        self.imagined = self.imagine(candidates)
        self.distances = self.measure(self.imagined)
        costs = self._arrival_costs(self.distances)
        if self.ensemble or self.variants is not None:
            first = costs.detach().clone()
            if last_is_still:
                first[:, -1] = -torch.inf
            cheapest = first.topk(min(_JUDGED, first.shape[1]), largest=False).indices
            problems = torch.arange(len(candidates), device=candidates.device)[:, None]
            costs = self._judge(candidates[problems, cheapest], (problems, cheapest), costs)
        return torch.where(self.distances.isfinite().all(-1), costs, torch.inf)

    def _judge(self, few: Tensor, where: tuple[Tensor, Tensor], costs: Tensor) -> Tensor:
        """Return the costs (B, S) once ``few`` (B, K, H, A) of the candidates, at ``where``, are judged."""
        if self.ensemble:
            judged = [self.measure(self.imagine(few, member)) for member in self.ensemble]
            mean = torch.stack([self.distances[where], *judged]).mean(0)
            of_few = self._arrival_costs(mean)
            highest = of_few.detach().nan_to_num(-torch.inf, neginf=-torch.inf, posinf=-torch.inf).amax(1)
            behind = (highest - costs.detach().nan_to_num(torch.inf).amin(1)).clamp_min(0)
            costs = (costs + behind[:, None]).index_put(where, of_few)
            self.distances = self.distances.index_put(where, mean)
        if self.variants is not None:
            penalties = torch.full_like(costs, self.variants.weight)
            penalties = penalties.index_put(where, self.variants(self.imagine, few))
            self.distances = self.distances + penalties[..., None]
            costs = costs + penalties
        return costs

    def _arrival_costs(self, distances: Tensor) -> Tensor:
        if not self.free_arrival:
            return distances[..., -1]
        steps = torch.arange(distances.shape[-1], device=distances.device)
        return (distances + self.time_cost * steps).amin(-1)

    def measure(self, latents: Tensor) -> Tensor:
        """Return the distance (B, S, H) of imagined latents (B, S, H, D) to the goal."""
        with torch.inference_mode(not latents.requires_grad):
            return self.metric(latents, self.goal[:, None, None])

    def imagine(self, candidates: Tensor, model: WorldModel | None = None) -> Tensor:
        """Return the latent after each block: (B, S, H, D); differentiable where candidates ask for it."""
        model = model or self.model
        with torch.inference_mode(not candidates.requires_grad):
            if candidates.device.type != "cpu":
                return self._rollout(model, slice(None), candidates)
            # One problem at a time: matrix products of another size round differently, and a plan must not
            # depend on which other problems happened to be solved beside it.
            return torch.cat(
                [self._rollout(model, slice(i, i + 1), candidates) for i in range(len(candidates))]
            )

    def _rollout(self, model: WorldModel, problems: slice, candidates: Tensor) -> Tensor:
        return model.rollout(self.latents[problems], self.history_actions[problems], candidates[problems])
