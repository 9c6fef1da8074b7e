"""What acts in an evaluation: the planner under test, and the floors it is compared with."""

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.image import prepare_images
from world_model_ros.planning.receding import PlannerConfig, RecedingHorizonPlanner


class Policy(Protocol):
    """Acts in blocks: one call a model step."""

    def start(self, goal_image: np.ndarray, seed: int) -> None:
        """Begin a problem: its goal picture (H, W, 3) uint8 and the seed of all its randomness."""

    def act(self, image: np.ndarray) -> np.ndarray:
        """Return the action block (block, dim) to execute from this picture on."""

    planning_ms: list[float]


class RandomPolicy:
    """The floor: uniform actions within the limits, a new one every control step."""

    def __init__(self, low, high, block: int):
        self.low, self.high, self.block = np.asarray(low), np.asarray(high), block
        self.planning_ms: list[float] = []

    def start(self, goal_image: np.ndarray, seed: int) -> None:  # noqa: ARG002
        """Seed the generator."""
        self.generator = np.random.default_rng(seed)

    def act(self, image: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Return a random block."""
        return self.generator.uniform(self.low, self.high, (self.block, len(self.low)))


class PlannerPolicy:
    """The world model and its planner, timed as on a robot.

    Pipelined (the default), the block that follows a picture was planned before it, while the block
    before ran, and the first block of a problem stands still: what the nodes do. Otherwise the robot
    waits for each plan, as in the published protocol.
    """

    def __init__(self, model, spec: CheckpointSpec, config: PlannerConfig, pipelined: bool = True):
        self.model, self.spec, self.config, self.pipelined = model, spec, config, pipelined
        self.planning_ms: list[float] = []
        RecedingHorizonPlanner(model, spec, config).warm_up()

    def start(self, goal_image: np.ndarray, seed: int) -> None:
        """Encode the goal and forget the last problem."""
        self.planner = RecedingHorizonPlanner(self.model, self.spec, replace(self.config, seed=seed))
        self.planner.set_goal(self.encode(goal_image))
        self.executed = None
        self.running = np.zeros((self.spec.block, self.spec.action.dim))

    def act(self, image: np.ndarray) -> np.ndarray:
        """Return the block to execute now, planning the next one where pipelined."""
        latent = self.encode(image)
        plan = self.planner.plan(latent, self.executed, self.running if self.pipelined else None)
        self.planning_ms.append(plan.milliseconds)
        planned = plan.actions[: self.spec.block]
        self.executed = self.running if self.pipelined else planned
        self.running = planned
        return self.executed

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> np.ndarray:
        """Return the latent (D,) of a camera picture (H, W, 3) uint8."""
        return self.model.encode(prepare_images(image[None], self.spec.image))[0].float().numpy()
