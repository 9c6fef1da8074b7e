"""Scripted, seeded explorers: they move the stick so that a world model gets to see what there is to see."""

import abc

import numpy as np

from world_model_ros.sim.block import clearance
from world_model_ros.sim.robot_description import STICK_RADIUS
from world_model_ros.sim.scene import PERIOD, WORKSPACE_CENTRE, WORKSPACE_HALF, WORKSPACE_HIGH, WORKSPACE_LOW

SPEED = 0.4  # limit per axis, m/s
_MEMORY = 0.9  # of the noise, per control step


class Explorer(abc.ABC):
    """Noise correlated in time and the drawing of chances; `action` maps a state to a velocity."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)
        self._noise = np.zeros(2)

    def action(self, state: np.ndarray) -> np.ndarray:
        """Return the velocity (2,) in m/s, within the limits, for the next control step."""
        return np.clip(self._velocity(np.asarray(state, float)), -SPEED, SPEED)

    @abc.abstractmethod
    def _velocity(self, state: np.ndarray) -> np.ndarray: ...

    def _disturbance(self, scale: float) -> np.ndarray:
        """First-order autoregressive noise of standard deviation `scale`."""
        fresh = self._rng.normal(0.0, np.sqrt(1 - _MEMORY**2), 2)
        self._noise = _MEMORY * self._noise + fresh
        return scale * self._noise

    def _chance(self, probability: float) -> bool:
        return self._rng.random() < probability


def _towards(target: np.ndarray, tip: np.ndarray, speed: float) -> np.ndarray:
    """Velocity that covers the way to `target` at `speed`, slower when it would pass it in one step."""
    way = target - tip
    length = np.hypot(*way)
    return way * min(speed / max(length, 1e-9), 1 / PERIOD)


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
            return _towards(self._target, tip, self._speed) + 0.05 * noise
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


class PushExplorer(Explorer):
    """Go behind the block, push through it, begin again; sometimes wander or rest."""

    _BEHIND = 0.12  # from the block's centre to where a push begins, m
    _AROUND = 0.13  # from the block's centre to the way round it, m
    _CLEAR = STICK_RADIUS + 0.008

    def __init__(self, seed):
        super().__init__(seed)
        self._phase = "think"
        self._left = 0

    def _think(self, block: np.ndarray) -> None:
        rng = self._rng
        self._speed = rng.uniform(0.25, 0.45)
        self._scale = rng.uniform(0.0, 0.08)
        if self._chance(0.12):
            self._phase, self._left = "wander", int(rng.integers(5, 16))
            self._target = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH)
            return
        if self._chance(0.05):
            self._phase, self._left = "rest", int(rng.integers(3, 9))
            return
        offset = WORKSPACE_CENTRE - block[:2]
        angle = rng.uniform(-np.pi, np.pi)
        # The farther out the block, the surer the push goes back to the middle.
        if self._chance(np.hypot(*offset) / 0.08):
            angle = np.arctan2(offset[1], offset[0]) + rng.normal(0.0, 0.5)
        self._direction = np.array([np.cos(angle), np.sin(angle)])
        self._lateral = rng.uniform(-0.055, 0.055)
        self._phase, self._left = "approach", 45

    def _begin(self, block: np.ndarray) -> np.ndarray:
        sideways = np.array([-self._direction[1], self._direction[0]])
        place = block[:2] - self._BEHIND * self._direction + self._lateral * sideways
        return np.clip(place, WORKSPACE_LOW, WORKSPACE_HIGH)

    def _around(self, tip: np.ndarray, target: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Return `target`, or a place on the way to it beside the block when that is in between."""
        steps = tip + np.linspace(0.0, 1.0, 12)[:, None] * (target - tip)
        if np.all(clearance(steps[1:], block) > self._CLEAR):
            return target
        out = tip - block[:2]
        here = np.arctan2(out[1], out[0])
        goal = target - block[:2]
        turn = (np.arctan2(goal[1], goal[0]) - here + np.pi) % (2 * np.pi) - np.pi
        angle = here + np.clip(turn, -0.7, 0.7)
        place = block[:2] + self._AROUND * np.array([np.cos(angle), np.sin(angle)])
        return np.clip(place, WORKSPACE_LOW, WORKSPACE_HIGH)

    def _velocity(self, state: np.ndarray) -> np.ndarray:
        tip, block = state[:2], state[2:]
        if self._left <= 0:
            self._think(block)
        self._left -= 1
        noise = self._disturbance(self._scale)
        if self._phase == "rest":
            return np.zeros(2)
        if self._phase == "wander":
            if np.hypot(*(self._target - tip)) < 0.02:
                self._left = 0
            return _towards(self._target, tip, self._speed) + noise
        if self._phase == "approach":
            target = self._begin(block)
            if np.hypot(*(target - tip)) < 0.025:
                self._phase = "push"
                self._speed = self._rng.uniform(0.12, 0.42)
                length = self._rng.uniform(0.11, 0.22)
                self._left = int(np.ceil(length / (self._speed * PERIOD)))
            else:
                return _towards(self._around(tip, target, block), tip, self._speed) + noise
        if (
            np.any(np.abs(block[:2] - WORKSPACE_CENTRE) > 0.10)
            and (block[:2] - WORKSPACE_CENTRE) @ self._direction > 0
        ):
            self._left = 0  # far enough out
        return self._speed * self._direction + noise


def make_explorer(task: str, seed) -> Explorer:
    """Return the explorer of `task` ("reach" or "push"), its chances drawn from `seed`."""
    return {"reach": ReachExplorer, "push": PushExplorer}[task](seed)
