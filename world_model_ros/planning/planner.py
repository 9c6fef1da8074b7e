"""Receding-horizon planning: one solve a model step, for the block after the one that is running."""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model_ros.data.normalisation import denormalise, normalise
from world_model_ros.errors import UserError
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.heads import HORIZON
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.planning.objective import (
    WithOodPenalty,
    WithSquaredDistance,
    WorldModel,
    squared_distance,
)
from world_model_ros.planning.precision import for_planning
from world_model_ros.planning.search import Search

ARRIVALS = (1, 2, 3, 4, 5, 7, 10, 14)  # model steps, that the inverse-dynamics head is asked about


class NoPlanError(ValueError):
    """There is no plan for this model step; the next one may have one."""


@dataclass(frozen=True)
class Plan:
    """What to do after the running block, and what the model expects of it."""

    actions: np.ndarray  # (horizon * block, dim), one row a control step, physical units, within limits
    distance: float  # squared L2 between the latent now and the goal's
    predicted_distance: float  # the same at the end of the plan
    horizon: int  # model steps
    milliseconds: float  # the solve took
    iterations: int  # of the solver that were done; fewer than asked for where the deadline came
    candidates: int  # that were imagined


@dataclass(frozen=True)
class _Found:
    """What a solve found: blocks (H, A), the latent (D,) after them and what it costs."""

    actions: Tensor
    arrival: Tensor
    cost: float
    iterations: int
    candidates: int
    standing: bool = False  # still, because nothing was worth moving for


class RecedingHorizonPlanner:
    """Plans towards a goal latent; keeps the history of latents and executed blocks.

    Replanning with a constant horizon and a terminal cost procrastinates: each plan may arrive one
    step later than the one before. So a plan keeps its moment of arrival: the first one chooses it
    freely within the horizon, the next ones have a model step less, and when none is left, it is
    chosen anew; earlier where what was promised is out of reach.
    """

    def __init__(self, model: WorldModel, spec: CheckpointSpec, config: PlannerConfig | None = None):
        self.model = model
        self.spec = spec
        head = getattr(model, "temporal", None)
        self.inverse = getattr(model, "inverse", None)
        self.config = (config or PlannerConfig()).resolved(head is not None, self.inverse is not None)
        if self.config.objective == "temporal" and head is None:
            raise UserError(
                "the checkpoint has no temporal-distance head: train it with one, or plan with "
                "objective squared."
            )
        self.metric = head if self.config.objective == "temporal" else squared_distance
        if self.config.squared_distance_weight:
            self.metric = WithSquaredDistance(self.metric, self.config.squared_distance_weight)
        if self.config.ood_penalty and spec.thresholds.norm_low is not None:
            self.metric = WithOodPenalty(self.metric, spec.thresholds.norm_low, self.config.ood_penalty)
        if self.config.proposal == "inverse_dynamics" and self.inverse is None:
            raise UserError(
                "the checkpoint has no inverse-dynamics head: train it with one, or plan with proposal none."
            )
        parameter = next(iter(getattr(model, "parameters", tuple)()), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        action = spec.action
        self.shape = (spec.block, action.dim)
        limits = tuple(
            torch.from_numpy(normalise(np.tile(values, spec.block), action))
            for values in (action.low, action.high)
        )
        self.still = torch.from_numpy(normalise(np.zeros(spec.block * action.dim), action)).to(self.device)
        if isinstance(model, LeWorldModel):
            self.model = for_planning(model, self.config.precision)
        self.search = Search(
            self.model,
            self.metric,
            self.config.make_solver(),
            limits,
            self.still,
            spec.block,
            self.device,
            self.config.time_cost,
            self.config.first_solve_multiplier,
        )
        self._goal: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """Forget history and warm start, and begin the random draws anew."""
        self.generator = torch.Generator(self.device).manual_seed(self.config.seed)
        self._latents: list[Tensor] = []
        self._blocks: list[Tensor] = []
        self._forget_plan()

    def _forget_plan(self) -> None:
        self._previous: Tensor | None = None  # what is left of the previous plan, blocks (H, A)
        self._promised = math.inf
        self._waiting = False

    def set_goal(self, latent: np.ndarray | None) -> None:
        """Take the goal's latent (D,), encoded once; the history stays, the warm start goes."""
        self._goal = None if latent is None else self._latent(latent)
        self._forget_plan()

    @property
    def has_goal(self) -> bool:
        """Whether there is something to plan towards."""
        return self._goal is not None

    def warm_up(self) -> None:
        """Solve once on zeros with a full history, so that the first plan is as fast as the tenth."""
        goal, zeros = self._goal, np.zeros(self.spec.model.latent_dim, np.float32)
        still = np.zeros(self.shape)
        self.reset()
        self.set_goal(zeros)
        for k in range(self.spec.history):
            self.plan(zeros, still if k else None, still)
        if self.search.records:  # every shape that can occur
            latents, blocks = [self._latent(zeros)] * self.spec.history, [self.still] * self.spec.history
            for context in range(1, self.spec.history + 1):
                for left in range(self.config.horizon):
                    self._previous = self.still.cpu().expand(left, -1) if left else None
                    for self._waiting in (False,) if left else (False, True):
                        self._solve(latents[:context], blocks[: context - 1], left, None)
        self.reset()
        self._goal = goal

    def plan(
        self,
        latent: np.ndarray,
        executed: np.ndarray | None,
        running: np.ndarray | None,
        passed: int = 1,
    ) -> Plan:
        """Plan the blocks that follow the running one; call once a model step.

        latent (D,): of the frame at the start of the running block. executed (block, dim), physical
        units: what was really done between the previous call's latent and this one; None at first and
        after a gap, which forgets the history. running (block, dim): what is being done from this
        frame on; None plans for right now, the robot waiting. passed: model steps since the previous call,
        more than one after a gap: the previous plan is begun at its block for this step.
        Raises ValueError for wrong shapes, numbers that are not finite, or without a goal, and
        NoPlanError where no candidate has a finite cost.
        """
        if self._goal is None:
            raise ValueError("no goal to plan towards: call set_goal first")
        start = time.perf_counter()
        self._remember(self._latent(latent), None if executed is None else self._block(executed))
        # Also where this call fails: by the next one, this step will have passed.
        self._previous = None if self._previous is None else self._previous[passed:]
        if self._previous is not None and not len(self._previous):
            self._previous = None
        latents, blocks = list(self._latents), list(self._blocks)
        if running is not None:
            blocks.append(self._block(running))
            latents.append(self._imagine(latents, blocks))
            latents, blocks = self._recent(latents, blocks)
        left = 0 if self._previous is None else len(self._previous)
        until = None if self.config.deadline is None else start + 1e-3 * self.config.deadline
        found = self._solve(latents, blocks, left, until)
        late = until is not None and time.perf_counter() > until
        if left and not late and found.cost > self._promised + self.config.replan_tolerance:
            again = self._solve(latents, blocks, 0, until)
            found = replace(again, candidates=found.candidates + again.candidates)
        self._previous, self._promised = found.actions, found.cost
        # At the goal, the arrival is chosen again and again, to hear that nothing is worth moving for. There
        # squared_distance_weight still adds up to half of itself.
        near = self.config.replan_tolerance + self.config.squared_distance_weight / 2
        self._waiting = found.standing and found.cost <= near
        return Plan(
            actions=self._physical(found.actions),
            distance=float(squared_distance(self._latents[-1], self._goal)),
            predicted_distance=float(squared_distance(found.arrival, self._goal)),
            horizon=len(found.actions),
            milliseconds=1e3 * (time.perf_counter() - start),
            iterations=found.iterations,
            candidates=found.candidates,
        )

    def _solve(self, latents: list[Tensor], blocks: list[Tensor], left: int, until: float | None) -> _Found:
        """Find the best ``left`` blocks after the context, or, for 0, the best moment of arrival too."""
        mean = self.still.repeat(left or self.config.horizon, 1)
        if left:
            mean[:] = self._previous
        context, past = _batched(latents, blocks, self.still)
        found = self.search(
            self.generator,
            any_time=not left,
            wide=not (left or self._waiting),
            until=until,
            proposals=self._proposals(latents[-1], len(mean)),
            latents=context,
            past=past,
            goal=self._goal[None],
            mean=mean[None],
        )
        if not (found.actions.isfinite().all() and math.isfinite(found.cost)):
            raise NoPlanError("no candidate has a finite cost: the model or the latent is broken")
        last = len(mean) - 1
        if not left:  # when it has cost least to arrive
            last = min(range(len(mean)), key=lambda k: found.distances[k] + self.config.time_cost * k)
        effort = found.iterations, found.candidates
        if not left and found.waiting <= found.distances[last] + self.config.stand_still_margin:
            return _Found(self.still.cpu()[None], found.standing, found.waiting, *effort, standing=True)
        return _Found(found.actions[: last + 1], found.imagined[last], found.distances[last], *effort)

    @torch.inference_mode()
    def _proposals(self, latent: Tensor, horizon: int) -> Tensor | None:
        """Return the head's guesses (1, P, horizon, A), standing still after each one's arrival."""
        if self.config.proposal == "none":
            return None
        arrivals = torch.tensor(ARRIVALS, device=self.device)
        pairs = (values.expand(len(arrivals), -1) for values in (latent, self._goal))
        guesses = self.inverse(*pairs, arrivals)[:, :horizon]
        steps = torch.arange(horizon, device=self.device)
        guesses = F.pad(guesses, (0, 0, 0, horizon - guesses.shape[1]))
        moving = (steps < arrivals[:, None]) & (steps < HORIZON)
        return torch.where(moving[..., None], guesses, self.still)[None]

    def _remember(self, latent: Tensor, executed: Tensor | None) -> None:
        if executed is None:
            self._latents, self._blocks = [latent], []
        elif not self._latents:
            self._latents = [latent]
        else:
            self._latents, self._blocks = self._recent([*self._latents, latent], [*self._blocks, executed])

    def _recent(self, latents: list[Tensor], blocks: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Cut a context to what the predictor sees: ``history`` latents and the blocks between them."""
        latents = latents[-self.spec.history :]
        return latents, blocks[len(blocks) - len(latents) + 1 :]

    @torch.inference_mode()
    def _imagine(self, latents: list[Tensor], blocks: list[Tensor]) -> Tensor:
        """Return the latent (D,) expected at the end of the last block."""
        context, history = _batched(latents, blocks[:-1], self.still)
        return self.model.rollout(context, history, blocks[-1][None, None, None])[0, 0, 0]

    def _latent(self, values: np.ndarray) -> Tensor:
        values = np.asarray(values, np.float32)
        if values.shape != (self.spec.model.latent_dim,):
            raise ValueError(f"a latent has shape ({self.spec.model.latent_dim},), this one {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("the latent is not finite")
        return torch.from_numpy(values.copy()).to(self.device)

    def _block(self, actions: np.ndarray) -> Tensor:
        actions = np.asarray(actions, np.float32)
        if actions.shape != self.shape:
            raise ValueError(f"an action block has shape {self.shape}, this one {actions.shape}")
        if not np.isfinite(actions).all():
            raise ValueError("the action block is not finite")
        return torch.from_numpy(normalise(actions.reshape(-1), self.spec.action)).to(self.device)

    def _physical(self, actions: Tensor) -> np.ndarray:
        steps = denormalise(actions.numpy(), self.spec.action).reshape(-1, self.spec.action.dim)
        return np.clip(steps.astype(np.float64), self.spec.action.low, self.spec.action.high)


def _batched(latents: list[Tensor], blocks: list[Tensor], empty: Tensor) -> tuple[Tensor, Tensor]:
    """Stack a context into (1, T, D) and (1, T-1, A)."""
    history = torch.stack(blocks) if blocks else empty.new_zeros(0, len(empty))
    return torch.stack(latents)[None], history[None]
