"""The policies of an evaluation: the planner under test and the baselines."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from world_model_ros.evaluation.problems import Problem
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.encoder import prepare_images
from world_model_ros.monitoring.camera_latency import CameraLatency
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.planning.planner import Plan, RecedingHorizonPlanner

PLAYED_BLOCKS = 2  # of a plan without a newer one: plan_timeout of command_node, 0.5 s


@dataclass(frozen=True)
class Promise:
    """What a plan promised some model steps ahead, and what came of it, in units of the objective."""

    gain: float  # distance to the goal when the plan was made, less the one it promised
    reached: float  # the same with the distance that was observed then


class Policy(Protocol):
    """Acts in blocks: one call a model step."""

    def start(self, goal_image: np.ndarray, problem: Problem) -> None:
        """Begin a problem with its goal image (H, W, 3) uint8; its seed decides everything random."""

    def act(self, image: np.ndarray | None) -> np.ndarray:
        """Return the action block (block, dim) to execute from this image on; None is a lost frame."""

    def change_goal(self, goal_image: np.ndarray) -> None:
        """Go on towards another goal, from where everything is."""

    def promises(self, steps: int) -> list[Promise]:
        """Return what plans for the present goal promised, ``steps`` model steps ahead or at their end."""

    planning_ms: list[float]


class _Baseline:
    """What baselines have in common: they know the action limits, and neither see nor promise anything."""

    def __init__(self, low, high, block: int):
        self.low, self.high, self.block = np.asarray(low), np.asarray(high), block
        self.planning_ms: list[float] = []

    def change_goal(self, goal_image: np.ndarray) -> None:
        """Change nothing."""

    def promises(self, steps: int) -> list[Promise]:  # noqa: ARG002
        """Return that nothing was promised."""
        return []


class RandomPolicy(_Baseline):
    """Baseline: uniform random actions within the limits, a new one every control step."""

    def start(self, goal_image: np.ndarray, problem: Problem) -> None:  # noqa: ARG002
        """Seed the generator."""
        self.generator = np.random.default_rng(problem.seed)

    def act(self, image: np.ndarray | None) -> np.ndarray:  # noqa: ARG002
        """Return a random block."""
        return self.generator.uniform(self.low, self.high, (self.block, len(self.low)))


class RepeatPolicy(_Baseline):
    """Baseline: repeats the last action before the start, or a random one where there is none."""

    def start(self, goal_image: np.ndarray, problem: Problem) -> None:  # noqa: ARG002
        """Choose the action."""
        drawn = np.random.default_rng(problem.seed).uniform(self.low, self.high)
        self.action = drawn if problem.last_action is None else np.asarray(problem.last_action)

    def act(self, image: np.ndarray | None) -> np.ndarray:  # noqa: ARG002
        """Return a block of this action."""
        return np.tile(self.action, (self.block, 1))


class PlannerPolicy:
    """The world model and its planner, timed as on a robot.

    Pipelined (the default), as in the nodes: a block is planned while the previous block runs, and the robot
    stands still in the first block of a problem. Otherwise the robot waits for each plan, as in the
    published protocol.
    """

    def __init__(self, model, spec: CheckpointSpec, config: PlannerConfig, pipelined: bool = True):
        self.model, self.spec, self.config, self.pipelined = model, spec, config, pipelined
        self.planning_ms: list[float] = []
        self.candidates: list[int] = []  # that each plan imagined
        self.plan: Plan | None = None  # the newest one
        self.estimates_latency = False  # of the camera; else the images are taken for new
        self.latency = CameraLatency(model, spec)
        RecedingHorizonPlanner(model, spec, config).warm_up()

    def start(self, goal_image: np.ndarray, problem: Problem) -> None:
        """Encode the goal and clear the state of the last problem."""
        self.planner = RecedingHorizonPlanner(self.model, self.spec, replace(self.config, seed=problem.seed))
        self.planner.set_goal(self.encode(goal_image))
        self.latency.reset()
        self.still = np.zeros((self.spec.block, self.spec.action.dim))
        self.sent = np.concatenate([self.still, self.still])  # actions of the last control steps
        self.follows = False  # whether the model step before this one had a frame
        self.ahead = self.still[: len(self.still) * self.pipelined]  # what is sent if no plan comes
        self.distances: list[float] = []  # observed since the goal was set, and what was promised at each
        self.promised: list[np.ndarray] = []

    def change_goal(self, goal_image: np.ndarray) -> None:
        """Plan towards another goal; what is known of the present stays."""
        self.planner.set_goal(self.encode(goal_image))
        self.distances, self.promised = [], []

    def promises(self, steps: int) -> list[Promise]:
        """Return what plans for the present goal promised, ``steps`` model steps ahead or at their end."""
        kept = []
        for step, (now, distances) in enumerate(zip(self.distances, self.promised, strict=True)):
            last = min(steps, len(distances)) - 1
            then = step + last + 1 + self.pipelined  # a plan begins after the running block
            if then < len(self.distances):
                kept.append(Promise(float(now - distances[last]), float(now - self.distances[then])))
        return kept

    def act(self, image: np.ndarray | None) -> np.ndarray:
        """Return the block to execute now, planning the next one where pipelined.

        Without an image there is no plan: the last plan is continued for as long as command_node would
        execute it, then the robot stands still. As in planner_node, a gap in the frames clears the history,
        and an image that turns out to be old is taken for what it is.
        """
        if image is None:
            self.follows = False
            return self._send(self.ahead)
        latent, block = self.encode(image), len(self.still)
        done = [self.sent[block - late : 2 * block - late] for late in range(block)] if self.follows else None
        late = self.latency.step(latent, done) if self.estimates_latency else 0
        committed = self._padded(self.ahead)[: (block - late) * self.pipelined]  # until the plan begins
        hidden = self.sent[2 * block - late :]  # done already, but not to be seen in the image
        running = np.concatenate([hidden, committed])
        if not self.pipelined:
            running = _stretched(hidden, block) if late else None
        plan = self.planner.plan(latent, None if done is None else done[late], running)
        if not plan.reached:
            self.planning_ms.append(plan.milliseconds)
            self.candidates.append(plan.candidates)
        self.distances.append(plan.cost_now)
        self.promised.append(plan.costs)
        self.plan, self.follows = plan, True
        return self._send(np.concatenate([committed, plan.actions[: PLAYED_BLOCKS * block]]))

    def _send(self, actions: np.ndarray) -> np.ndarray:
        """Return the first block of ``actions`` (steps, dim), and keep the rest for when no plan comes."""
        sent, self.ahead = self._padded(actions), actions[len(self.still) :]
        self.sent = np.concatenate([self.sent, sent])[-2 * len(sent) :]
        return sent

    def _padded(self, actions: np.ndarray) -> np.ndarray:
        """Return the first block of ``actions``, with standing still where there are too few."""
        return np.concatenate([actions, self.still])[: len(self.still)]

    def did(self, block: np.ndarray) -> None:
        """Note that this block (block, dim) was executed, and not the one that ``act`` returned last."""
        self.sent[-len(block) :] = block

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> np.ndarray:
        """Return the latent (D,) of a camera image (H, W, 3) uint8."""
        return self.model.encode(prepare_images(image[None], self.spec.image))[0].float().numpy()


def _stretched(actions: np.ndarray, parts: int) -> np.ndarray:
    """Return ``parts`` rows that move the robot as far as ``actions`` (steps, dim), as in timeline.py."""
    return np.repeat(actions, parts, axis=0).reshape(parts, len(actions), -1).sum(1) / parts
