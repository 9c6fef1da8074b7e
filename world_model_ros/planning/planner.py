"""Receding-horizon planning: one solve a model step, for the block after the one that is running.

Shapes: T latents of context, H horizon in blocks, A one action block (z-scored), D latent.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model_ros.data.normalisation import denormalise, normalise
from world_model_ros.errors import NoPlanError, UserError
from world_model_ros.model.checkpoint import multiplies_in_bf16
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.heads import HORIZON
from world_model_ros.model.lewm import Predicting
from world_model_ros.planning.cem import CEM, Solution
from world_model_ros.planning.config import PlannerConfig, proposes
from world_model_ros.planning.cuda_graph import SolveRunner
from world_model_ros.planning.fast_rollout import for_planning
from world_model_ros.planning.impasse import SAMPLES, Impasse, Surprises, moves_elsewhere
from world_model_ros.planning.landmarks import Waypoints
from world_model_ros.planning.objective import (
    RISK_SHARE,
    GoalDistance,
    Metric,
    RiskOfVariants,
    WorldModel,
    make_metric,
    shifts,
    squared_distance,
)

LEFT = 1.5  # times the threshold: the goal counts as left above it
SAMPLE = 16  # candidates of a plan that are kept to be shown
ARRIVALS = (1, 2, 3, 4, 5, 7, 10, 14)  # model steps, that the inverse-dynamics head is asked about


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
    # In units of the objective: the distance now, and the predicted ones after each block, (horizon,).
    cost_now: float = math.nan
    costs: np.ndarray | None = None
    reached: bool = False  # the goal is reached: the robot stands still, and nothing was solved
    elsewhere: bool = False  # nothing comes of plans here: the robot moves elsewhere first, see impasse.py


class History:
    """The latents of the last model steps and the action blocks between them: what the predictor sees."""

    def __init__(self, length: int, latents: Sequence[Tensor] = (), blocks: Sequence[Tensor] = ()):
        self.length, self.latents = length, tuple(latents[-length:])
        self.blocks = tuple(blocks[len(blocks) - len(self.latents) + 1 :])

    def followed_by(self, block: Tensor | None, latent: Tensor) -> "History":
        """Return the history after ``block`` (A,) led to ``latent`` (D,); None for the block is a gap."""
        if block is None or not self.latents:
            return History(self.length, [latent])
        return History(self.length, [*self.latents, latent], [*self.blocks, block])

    def batched(self, width: int) -> tuple[Tensor, Tensor]:
        """Return latents (1, T, D) and blocks (1, T - 1, A), where A is ``width``."""
        latents = torch.stack(self.latents)[None]
        return latents, torch.stack(self.blocks)[None] if self.blocks else latents.new_zeros(1, 0, width)


class Arrival:
    """Whether the goal is reached: within ``threshold`` for ``steps`` model steps in a row.

    It is reached until the distance was above ``LEFT`` times the threshold for as many steps in a row: one
    frame that is disturbed changes nothing. Without a threshold, or with 0 steps, it never is.
    """

    def __init__(self, threshold: float | None, steps: int):
        self.threshold, self.steps = threshold, steps
        self.reset()

    def __str__(self) -> str:
        if not self.known:
            return "the checkpoint has no threshold, or reached_steps is 0"
        if math.isnan(self.distance):
            return f"no distance yet, threshold {self.threshold:.2f}"
        text = f"distance {self.distance:.2f}, threshold {self.threshold:.2f}"
        if self.reached or self.distance > self.threshold:
            return text
        return f"{text}: within it for {self._count} of the {self.steps} model steps that it must stay there"

    @property
    def known(self) -> bool:
        """Whether there is anything to tell it by."""
        return self.threshold is not None and self.steps > 0

    @property
    def far(self) -> bool:
        """Whether the newest distance is one at which a reached goal is left, or no threshold is known."""
        return self.threshold is None or self.distance > LEFT * self.threshold

    def reset(self) -> None:
        """Begin with a new goal."""
        self.reached, self._count = False, 0
        self.distance = math.nan  # the newest one

    def step(self, distance: float) -> bool:
        """Take the distance of one more model step, and return whether the goal is reached."""
        self.distance = distance
        if not self.known:
            return False
        contrary = distance > LEFT * self.threshold if self.reached else distance <= self.threshold
        self._count = self._count + 1 if contrary else 0
        if self._count >= self.steps:
            self.reached, self._count = not self.reached, 0
        return self.reached


class RecedingHorizonPlanner:
    """Plans towards a goal latent; keeps the history of latents and executed blocks.

    With a constant horizon and a terminal cost, each plan may arrive one step later than the one before,
    and the robot never arrives. So a plan keeps its moment of arrival: the first one chooses it freely
    within the horizon, the next ones have a model step less. It is chosen anew when no step is left, or
    when the cost exceeds the expected cost by more than ``replan_tolerance``.

    When the goal is reached the plan is to stand still, until the goal is left or another one is set.
    """

    def __init__(self, model: WorldModel, spec: CheckpointSpec, config: PlannerConfig | None = None):
        heads = {name: getattr(model, name, None) for name in ("temporal", "object")}
        self.inverse = getattr(model, "inverse", None)
        parameter = next(iter(getattr(model, "parameters", tuple)()), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        members = list(getattr(model, "ensemble", ()))
        self.config = (config or PlannerConfig()).resolved(
            heads["temporal"] is not None,
            self.inverse is not None and proposes(spec),
            heads["object"] is not None,
            len(members),
            self.device.type == "cpu" and multiplies_in_bf16(),
        )
        if self.config.proposal == "inverse_dynamics" and self.inverse is None:
            raise UserError(
                "the checkpoint has no inverse-dynamics head: train it with one, or plan with proposal none."
            )
        self.spec, self.shape = spec, (spec.block, spec.action.dim)
        risk = getattr(model, "risk", None)
        self.metric = make_metric(self.config, heads, spec.thresholds.norm_low, risk)
        # What the robot does not move directly decides, where that is what plans are judged by.
        thresholds, steps = spec.thresholds, self.config.reached_steps
        if self.config.objective == "object" and thresholds.object_reached is not None:
            self._goal_distance: Metric = heads["object"]
            self.arrival = Arrival(thresholds.object_reached, steps)
        else:
            self._goal_distance, self.arrival = squared_distance, Arrival(thresholds.goal_reached, steps)
        rows = spec.action.low, spec.action.high, np.zeros(spec.action.dim)
        low, high, self.still = (
            torch.from_numpy(normalise(np.tile(row, spec.block), spec.action)).to(self.device) for row in rows
        )
        self.limits = low, high
        self.variants = None
        if risk is not None and self.config.risk_penalty and self.config.risk_variants:
            moved = shifts(self.config.risk_variants, *self.shape).to(self.device)
            weight = RISK_SHARE * self.config.risk_penalty
            self.variants = RiskOfVariants(risk, weight, moved, self.limits, self.still)
        self.model, *self.ensemble = (
            for_planning(part, self.config.precision) if isinstance(part, Predicting) else part
            for part in (model, *members[: self.config.ensemble])
        )
        self.runner = SolveRunner(
            self.solve, self.config.make_solver(), self.config.first_solve_multiplier, spec.block, self.device
        )
        moves = bool(self.ensemble) and self.config.objective == "object"
        self.impasse = Impasse(self.config.impasse_steps * moves, self.config.stand_still_margin)
        self.surprises = Surprises(self.config.surprise_steps * moves, spec.thresholds.surprise)
        landmarks = getattr(model, "landmarks", None)
        self.waypoints = None
        if landmarks is not None and self.config.landmarks:
            self.waypoints = Waypoints(landmarks, heads["temporal"])
        self._goal: Tensor | None = None
        self._target: Tensor | None = None  # what plans aim at: a landmark, or the goal
        self.reset()

    def reset(self) -> None:
        """Clear the history and the previous plan, and seed the random draws again."""
        self.generator = torch.Generator(self.device).manual_seed(self.config.seed)
        self.history = History(self.spec.history)
        self.arrival.reset()
        self.impasse.reset()
        self.surprises.reset()
        self._take_goal(self._goal)
        self._clear_plan()

    def _clear_plan(self) -> None:
        self._rest: Tensor | None = None  # the blocks (H, A) that are left of the previous plan
        self._expected_cost = math.inf  # of the previous plan
        self._at_goal = False  # whether it was to stand still there
        self._stands_still = False  # whether it was to stand still, wherever
        self._sample: Tensor | None = None  # candidates (S, H, A) of the last solve
        self._elsewhere: Tensor | None = None  # blocks (H, A) that are left of a move elsewhere

    def set_goal(self, latent: np.ndarray | None) -> None:
        """Take the goal's latent (D,), encoded once; the history stays, the previous plan is dropped."""
        self._take_goal(None if latent is None else self._latent(latent))
        self.arrival.reset()
        self.impasse.reset()
        self.surprises.reset()
        self._clear_plan()

    def _take_goal(self, latent: Tensor | None) -> None:
        self._goal = self._target = latent
        if self.waypoints is not None:
            self.waypoints.set_goal(latent)

    @property
    def has_goal(self) -> bool:
        """Whether there is something to plan towards."""
        return self._goal is not None

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
        after a gap, which clears the history. running (block, dim): what is being done from this
        frame on; None plans for right now, the robot waiting. passed: model steps since the previous call,
        more than one after a gap: the previous plan is begun at its block for this step.
        Raises ValueError for wrong shapes, numbers that are not finite, or without a goal, and
        NoPlanError where no candidate has a finite cost.
        """
        if self._goal is None:
            raise ValueError("no goal to plan towards: call set_goal first")
        start = time.perf_counter()
        deadline = None if self.config.deadline is None else start + 1e-3 * self.config.deadline
        self._remember(latent, executed)
        surprised = self.surprises.step(self.history.latents[-1], executed)
        if self.arrival.step(self._distance_now(self._goal_distance)):
            return self._rest_at_goal(start)
        # Neither where the robot did not do what was planned, nor near the goal, where moving may harm.
        counts = executed is not None and (np.any(executed) or self._stands_still) and self.arrival.far
        held = executed is not None and not np.any(executed)  # the move elsewhere is still to come
        self._advance_previous_plan(passed)
        context = self._after_running_block(running)
        self.surprises.expect(running, context.latents[-1])
        begins = self.impasse.step(self._distance_now(self.metric), counts)
        begins = begins or (surprised and self.arrival.far) or (self._elsewhere is not None and held)
        if begins or self._elsewhere is not None:
            return self._move_elsewhere(context, start, begins)
        self._choose_target(context, executed is not None and bool(np.any(executed)))
        solution = self._keep_or_choose_arrival(context, deadline)
        self._keep_plan(solution)
        return self._physical_plan(solution, start)

    @torch.inference_mode()
    def _move_elsewhere(self, context: History, start: float, begins: bool) -> Plan:
        """Return the blocks that are left of a move elsewhere, or begin one."""
        latents, past = context.batched(len(self.still))
        blocks, count = self._elsewhere, 0
        if begins or blocks is None:
            models = [self.model, *self.ensemble]
            scene = latents, past, self._goal, self.metric, self.impasse.least
            blocks = moves_elsewhere(models, *scene, self.limits, self.shape[0], self.generator)
            count = SAMPLES * len(models)
        imagined = self.model.rollout(latents, past, blocks[None, None])[:, 0]
        distances = self.metric(imagined, self._goal)
        self._clear_plan()  # what follows is chosen anew
        self.surprises.reset()
        self._elsewhere = blocks
        solution = Solution(
            blocks[None].cpu(),
            torch.zeros_like(blocks)[None],
            blocks[None].cpu(),
            distances[:, -1],
            latents=imagined,
            distances=distances,
            candidates=count,
        )
        return replace(self._physical_plan(solution, start), elsewhere=True)

    @torch.inference_mode()
    def _distance_now(self, metric: Metric) -> float:
        return float(metric(self.history.latents[-1][None], self._goal)[0])

    def _rest_at_goal(self, start: float) -> Plan:
        """Return a plan of one block of standing still."""
        self._clear_plan()
        distance, cost = self._distance_now(squared_distance), self._distance_now(self.metric)
        still = np.zeros(self.shape).clip(self.spec.action.low, self.spec.action.high)
        return Plan(
            actions=still,
            distance=distance,
            predicted_distance=distance,
            horizon=1,
            milliseconds=1e3 * (time.perf_counter() - start),
            iterations=0,
            candidates=0,
            cost_now=cost,
            costs=np.array([cost]),
            reached=True,
        )

    def _remember(self, latent: np.ndarray, executed: np.ndarray | None) -> None:
        now, block = self._latent(latent), None if executed is None else self._block(executed)
        self.history = self.history.followed_by(block, now)

    def _advance_previous_plan(self, passed: int) -> None:
        """Drop the blocks whose time has passed, also where this step gets no plan."""
        left = None if self._rest is None else self._rest[passed:]
        self._rest = None if left is None or not len(left) else left
        left = None if self._elsewhere is None else self._elsewhere[passed:]
        self._elsewhere = None if left is None or not len(left) else left

    @torch.inference_mode()
    def _after_running_block(self, running: np.ndarray | None) -> History:
        """Return the history expected at the end of the running block: where the plan begins."""
        if running is None:
            return self.history
        block = self._block(running)
        latents, blocks = self.history.batched(len(block))
        return self.history.followed_by(
            block, self.model.rollout(latents, blocks, block[None, None, None])[0, 0, 0]
        )

    def _choose_target(self, context: History, moved: bool) -> None:
        """Choose what to aim at from the context; a plan towards another target is dropped."""
        if self.waypoints is None:
            return
        target = self.waypoints.target(context.latents[-1], moved)
        if not torch.equal(target, self._target):
            self._clear_plan()
            self._target = target

    def _keep_or_choose_arrival(self, context: History, deadline: float | None) -> Solution:
        """Solve with the previous plan's moment of arrival, or else with a free one, and choose it."""
        candidates = 0
        if self._rest is not None:
            solution = self._search(context, deadline, free_arrival=False)
            late = deadline is not None and time.perf_counter() > deadline
            if late or not float(solution.cost) > self._expected_cost + self.config.replan_tolerance:
                return solution
            candidates = solution.candidates
        solution = self._choose_arrival(self._search(context, deadline, free_arrival=True))
        return replace(solution, candidates=solution.candidates + candidates)

    def _choose_arrival(self, solution: Solution) -> Solution:
        """Return the plan up to the step where arriving costs least, or one block of standing still."""
        distances = solution.distances[0].tolist()
        last = min(range(len(distances)), key=lambda k: distances[k] + self.config.time_cost * k)
        if float(solution.still_distance) <= distances[last] + self.config.stand_still_margin:
            return replace(
                solution,
                actions=self.still.cpu()[None, None],
                latents=solution.still_latent[:, None],
                distances=solution.still_distance[:, None],
                cost=solution.still_distance,
                stands_still=True,
            )
        return replace(
            solution,
            actions=solution.actions[:, : last + 1],
            latents=solution.latents[:, : last + 1],
            distances=solution.distances[:, : last + 1],
            cost=solution.distances[:, last],
        )

    def _search(self, context: History, deadline: float | None, free_arrival: bool) -> Solution:
        """Return the best blocks after the context, from a search around the rest of the previous plan.

        Where the moment of arrival is free, the search is around standing still, over the whole horizon.
        """
        horizon = self.config.horizon if free_arrival else len(self._rest)
        mean = self.still.repeat(horizon, 1)
        if not free_arrival:
            mean[:] = self._rest
        latents, past = context.batched(len(self.still))
        solution = self.runner(
            self.generator,
            free_arrival,
            first=free_arrival and not self._at_goal,
            deadline=deadline,
            latents=latents,
            past=past,
            goal=self._target[None],
            mean=mean[None],
            proposals=self._proposals(context.latents[-1], horizon),
        )
        if not (solution.actions.isfinite().all() and math.isfinite(float(solution.cost))):
            raise NoPlanError("no candidate has a finite cost: the model or the latent is broken")
        return solution if free_arrival else replace(solution, cost=solution.distances[:, -1])

    def solve(
        self,
        solver: CEM,
        free_arrival: bool,
        noise: Callable[[], Tensor],
        deadline: float | None,
        latents: Tensor,
        past: Tensor,
        goal: Tensor,
        mean: Tensor,
        proposals: Tensor | None = None,
    ) -> Solution:
        """Solve from ``latents`` (1, T, D) and ``past`` (1, T-1, A) towards ``goal`` (1, D).

        ``mean`` (1, H, A) is where the search starts, proposals (1, P, H, A) what else it tries first.
        A function of tensors, in which nothing waits for the value of one: a CUDA graph may hold it.
        """
        still = self.still if free_arrival else None
        cost = GoalDistance(
            self.model,
            latents,
            past,
            goal,
            self.metric,
            free_arrival,
            self.config.time_cost,
            still,
            self.variants,
            self.ensemble,
        )
        solution = solver.solve(cost, mean, noise, self.limits, proposals, deadline)
        stride = -(-cost.candidates.shape[1] // SAMPLE)
        solution = replace(solution, sample=cost.candidates[:, ::stride])  # a view, which costs nothing
        if solution.index is None:
            cost.evaluate(solution.actions[:, None])
            chosen = slice(0, 1)
        else:  # what has been imagined already
            chosen = solution.index
        solution = replace(
            solution, latents=cost.imagined[:, chosen][:, 0], distances=cost.distances[:, chosen][:, 0]
        )
        if free_arrival:
            latent = cost.still_latent[:, 0, 0]
            solution = replace(solution, still_latent=latent, still_distance=cost.still_distance)
        return solution

    @torch.inference_mode()
    def _proposals(self, latent: Tensor, horizon: int) -> Tensor | None:
        """Return the head's guesses (1, P, horizon, A), standing still after each one's arrival."""
        if self.config.proposal == "none":
            return None
        arrivals = torch.tensor(ARRIVALS, device=self.device)
        pairs = (values.expand(len(arrivals), -1) for values in (latent, self._target))
        guesses = self.inverse(*pairs, arrivals)[:, :horizon]
        steps = torch.arange(horizon, device=self.device)
        guesses = F.pad(guesses, (0, 0, 0, horizon - guesses.shape[1]))
        moving = (steps < arrivals[:, None]) & (steps < HORIZON)
        return torch.where(moving[..., None], guesses, self.still)[None]

    def _keep_plan(self, solution: Solution) -> None:
        """Keep what the next step needs of a plan: its blocks, its expected cost, whether it stands still."""
        self._rest, self._expected_cost = solution.actions[0], float(solution.cost)
        self._sample = None if solution.sample is None else solution.sample[0]
        self._stands_still = solution.stands_still
        # At the goal, the arrival is chosen in every step, and standing still is what is chosen. There
        # squared_distance_weight still adds up to half of itself.
        near = self.config.replan_tolerance + self.config.squared_distance_weight / 2
        self._at_goal = solution.stands_still and self._expected_cost <= near

    @torch.inference_mode()
    def _physical_plan(self, solution: Solution, start: float) -> Plan:
        low, high = self.spec.action.low, self.spec.action.high
        steps = denormalise(solution.actions[0].numpy(), self.spec.action).reshape(-1, self.spec.action.dim)
        costs = solution.distances
        if self._target is not self._goal:  # what is told is the distance to the goal
            costs = self.metric(solution.latents, self._goal)
        return Plan(
            actions=np.clip(steps.astype(np.float64), low, high),
            distance=self._distance_now(squared_distance),
            predicted_distance=float(squared_distance(solution.latents[0, -1], self._goal)),
            horizon=solution.actions.shape[1],
            milliseconds=1e3 * (time.perf_counter() - start),
            iterations=solution.iterations,
            candidates=solution.candidates,
            cost_now=self._distance_now(self.metric),
            costs=costs[0].cpu().numpy(),
        )

    @torch.inference_mode()
    def sampled(self) -> np.ndarray:
        """Return candidates of the last plan's last iteration, (S, horizon * block, dim), physical units.

        Evenly spaced ones, ``SAMPLE`` at most. To be called before the next plan.
        """
        if self._sample is None:
            return np.zeros((0, 0, self.spec.action.dim))
        low, high = self.spec.action.low, self.spec.action.high
        rows = denormalise(self._sample.detach().cpu().numpy(), self.spec.action)
        return np.clip(rows.reshape(len(rows), -1, self.spec.action.dim).astype(np.float64), low, high)

    def warm_up(self) -> None:
        """Solve once on zeros with a full history, so that the first plan is as fast as the tenth."""
        goal, zeros = self._goal, np.zeros(self.spec.model.latent_dim, np.float32)
        still, arrival = np.zeros(self.shape), self.arrival
        self.reset()
        self.arrival = Arrival(None, 0)  # or nothing would be solved
        self.set_goal(zeros)
        for k in range(self.spec.history):
            self.plan(zeros, still if k else None, still)
        if self.runner.records:
            self._solve_every_shape(self._latent(zeros))
        self.arrival = arrival
        self.reset()
        self._take_goal(goal)

    def _solve_every_shape(self, latent: Tensor) -> None:
        """Have a CUDA graph recorded for each shape that can occur."""
        history = History(self.spec.history)
        for _ in range(self.spec.history):
            history = history.followed_by(self.still, latent)
            for left in range(1, self.config.horizon):
                self._rest = self.still.cpu().expand(left, -1)
                self._search(history, None, free_arrival=False)
            for self._at_goal in (False, True):
                self._search(history, None, free_arrival=True)

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


class GoalInUse:
    """The goal latent (D,) that is planned towards, or None before there is one."""

    def __init__(self):
        self.latent: np.ndarray | None = None
        self._ended = False

    def take(self, latent: np.ndarray) -> bool:
        """Take a goal and return whether it is a new one; the one in use is not, however often it comes.

        After ``end`` it counts as new again.
        """
        if not self._ended and self.latent is not None and np.array_equal(latent, self.latent):
            return False
        self.latent, self._ended = np.array(latent), False
        return True

    def end(self) -> None:
        """Note that planning has ended: it made no progress, or was switched off."""
        self._ended = True
