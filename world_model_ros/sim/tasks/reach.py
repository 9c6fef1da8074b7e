"""The task reach: bring the tip of the stick to a place."""

import numpy as np

from world_model_ros.sim.arm import SPEED, Explorer, TipTask, tip_violations, towards
from world_model_ros.sim.scene import (
    PERIOD,
    WORKSPACE_CENTRE,
    WORKSPACE_HALF,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    View,
)
from world_model_ros.sim.task import Protocol

REACHED = 0.03  # tip to goal, m
_APART = 0.08  # least distance of a goal, m


class ReachExplorer(Explorer):
    """Everywhere in the workspace, at every speed: a manner of moving is drawn anew every short while."""

    _MANNERS = ("go", "wander", "hold", "extreme", "slow", "stop")
    _SHARES = (0.40, 0.20, 0.16, 0.10, 0.08, 0.06)

    def __init__(self, seed):
        super().__init__(seed)
        self._left = 0

    def _choose(self) -> None:
        rng = self._rng
        self._manner = rng.choice(self._MANNERS, p=self._SHARES)
        self._left = int(rng.integers(5, 26))
        self._speed = rng.uniform(0.1, SPEED)
        self._scale = rng.uniform(0.1, 0.35)
        # A little beyond the edges, since points on the way are nearer to the middle than their ends.
        self._target = WORKSPACE_CENTRE + rng.uniform(-1.15, 1.15, 2) * WORKSPACE_HALF
        self._target = np.clip(self._target, WORKSPACE_LOW, WORKSPACE_HIGH)
        self._constant = rng.uniform(-SPEED, SPEED, 2)
        if self._manner == "extreme":
            self._constant = rng.choice((-SPEED, 0.0, SPEED), 2)
        if self._manner == "slow":
            self._constant = rng.uniform(-0.06, 0.06, 2)
        if self._manner == "stop":
            self._left = int(rng.integers(3, 11))

    def _velocity(self, state: np.ndarray) -> np.ndarray:
        if self._left <= 0:
            self._choose()
        self._left -= 1
        tip = state[:2]
        noise = self._disturbance(1.0)
        if self._manner == "go":
            if np.hypot(*(self._target - tip)) < 0.01:
                self._left = 0
            return towards(self._target, tip, self._speed) + 0.05 * noise
        if self._manner == "stop":
            return np.zeros(2)
        velocity = self._scale * noise if self._manner == "wander" else self._constant
        # Turn round at the edges rather than press against them.
        ahead = tip + velocity * PERIOD
        outward = ((ahead < WORKSPACE_LOW) & (velocity < 0)) | ((ahead > WORKSPACE_HIGH) & (velocity > 0))
        if np.any(outward):
            self._constant = np.where(outward, -self._constant, self._constant)
            self._noise = np.where(outward, -self._noise, self._noise)
            velocity = np.where(outward, -velocity, velocity)
        return velocity


class Reach(TipTask):
    """Bring the tip within 3 cm of a place."""

    stick = 0.25
    view = View((0.89, 0.0, 0.66), (0.505, 0.0, 0.02), 37.0)
    reached, apart = REACHED, _APART
    goal_words = f"the tip of the stick is within {100 * REACHED:.0f} cm of its place"
    goal_budget = 75
    protocols = {
        "random": Protocol("start and goal drawn at random", budget=50),
        "lewm": TipTask.lewm,
    }
    violations = tip_violations(lambda tip: np.all((tip > WORKSPACE_LOW) & (tip < WORKSPACE_HIGH)))

    def explorer(self, seed) -> ReachExplorer:
        """Return an explorer that goes everywhere in the workspace."""
        return ReachExplorer(seed)

    def random_state(self, rng: np.random.Generator) -> np.ndarray:
        """Return a place (2,) in the workspace."""
        return rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH)
