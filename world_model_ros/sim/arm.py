"""Shared by the tasks of the Panda with a stick: actions, the base of the explorers, violations."""

import abc

import numpy as np

from world_model_ros.errors import UserError
from world_model_ros.sim.scene import (
    ARM_JOINTS,
    PERIOD,
    SUBSTEPS,
    TIP_HEIGHT,
    WORKSPACE_CENTRE,
    WORKSPACE_HALF,
    Scene,
    View,
)
from world_model_ros.sim.task import (
    WINDOW,
    Intervention,
    Protocol,
    Start,
    Task,
    Violation,
    yaw_difference,
)

SPEED = 0.4  # limit per axis, m/s
JUMPS = {"teleport": 0.08, "teleport_4cm": 0.04, "teleport_2cm": 0.02}  # names of violations -> m
_OUTSIDE = 0.01  # how far outside the workspace a given state may lie before it is refused, m
_MEMORY = 0.9  # of the explorers' noise, per control step
_DIRECTIONS = 24  # tried for a jump
_STUCK = 0.03  # what the tip moves at least in a step in which the arm shall be stuck, m
_CAMERA_SHIFT = 0.02  # m


class ArmTask(Task):
    """A Panda moves a stick over a table. Actions are velocities of the stick's tip in the table's plane.

    The first two coordinates of a state are where the tip is, in m in panda_link0.
    """

    stick: float  # from the origin of panda_hand to the tip, m
    view: View
    workspace_half = WORKSPACE_HALF  # of the square that the tip moves in, m
    tip_height = TIP_HEIGHT  # of the tip above the table, m
    action_names = ("linear_x", "linear_y")
    action_frame = "panda_link0"
    action_low = (-SPEED, -SPEED)
    action_high = (SPEED, SPEED)
    period = PERIOD
    substeps = SUBSTEPS
    joint_names = ARM_JOINTS
    engine = "pybullet"

    def __init__(self, seed: int = 0, gui: bool = False, image_size: int = 128):
        if image_size < 8:
            raise UserError(
                f"an image of {image_size} pixels shows nothing: choose an image size of at least 8."
            )
        self._scene = Scene(self.stick, self.view, gui, self.tip_height)
        self.prepare()
        super().__init__(seed, gui, image_size)

    def prepare(self) -> None:
        """Add to the scene what stays in it."""

    @classmethod
    def workspace(cls) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and the highest position (2,) of the tip in m."""
        return WORKSPACE_CENTRE - cls.workspace_half, WORKSPACE_CENTRE + cls.workspace_half

    def place(self, state: np.ndarray) -> None:
        """Put the tip where `state` says, at rest."""
        self._command = np.clip(state[:2], *self.workspace())
        self._scene.place(self._command)

    def move(self, action: np.ndarray, after) -> None:
        """Move the tip for a control step, within the workspace."""
        end = np.clip(self._command + action * self.period, *self.workspace())
        self._command = self._scene.move(self._command, end, after, self.blocked)

    def blocked(self) -> bool:
        """Return whether the stick meets more resistance than it can push away."""
        return False

    def state(self) -> np.ndarray:
        """Position of the tip, (2,)."""
        return self._scene.tip()

    def tool(self) -> np.ndarray:
        """Position of the tip, (3,)."""
        return np.array([*self._scene.tip(), self.tip_height])

    def render(self) -> np.ndarray:
        """What the camera sees, uint8 (image_size, image_size, 3) RGB."""
        return self._scene.picture(self.image_size)

    def move_camera(self, offset: np.ndarray) -> None:
        """Shift the camera by (3,) m from where it belongs; `reset` puts it back."""
        self._scene.move_camera(offset)

    def joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (7,) rad and velocities (7,) rad/s of `joint_names`."""
        return self._scene.joints()

    def checked(self, state: np.ndarray) -> np.ndarray:
        """Return a state as an array; ValueError for another shape or a tip outside the workspace."""
        state = super().checked(state)
        if np.any(np.abs(state[:2] - WORKSPACE_CENTRE) > self.workspace_half + _OUTSIDE):
            raise ValueError(f"the tip at {state[:2].tolist()} is outside the workspace")
        return state

    def close(self) -> None:
        """Free the physics engine."""
        self._scene.close()
        super().close()


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


def towards(target: np.ndarray, tip: np.ndarray, speed: float) -> np.ndarray:
    """Return the velocity that covers the way to `target` at `speed`, slower where a step would pass it."""
    way = target - tip
    length = np.hypot(*way)
    return way * min(speed / max(length, 1e-9), 1 / PERIOD)


def way_round(
    centre: np.ndarray, radius: float, tip: np.ndarray, target: np.ndarray, most: float
) -> np.ndarray:
    """Return the place (2,) on a circle of `radius`, from `tip` towards `target` by `most` rad at most."""
    out, goal = tip - centre, target - centre
    here = np.arctan2(out[1], out[0])
    turn = yaw_difference(np.arctan2(goal[1], goal[0]), here)
    angle = here + np.clip(turn, -most, most)
    return centre + radius * np.array([np.cos(angle), np.sin(angle)])


def lengths(places: np.ndarray) -> np.ndarray:
    """Return how far each of `places` (K + 1, 2) is from the next, (K,)."""
    return np.hypot(*np.diff(places, axis=0).T)


def jump(
    thing: np.ndarray, length: float, rng: np.random.Generator, fits, turn: float = 0.0
) -> np.ndarray | None:
    """Return where a `thing` (x, y[, yaw]) may jump to by `length` m and `turn` rad; None: nowhere.

    Directions are drawn until `fits(jumped)`.
    """
    for angle in rng.uniform(-np.pi, np.pi, _DIRECTIONS):
        jumped = thing.copy()
        jumped[:2] += length * np.array([np.cos(angle), np.sin(angle)])
        jumped[2:] += turn * rng.choice((-1, 1))
        if fits(jumped):
            return jumped
    return None


def _stand_still(_state: np.ndarray, _rng: np.random.Generator) -> Intervention:
    return Intervention(act=lambda world, _: world.step(np.zeros(2)))


def _shift_camera(_state: np.ndarray, rng: np.random.Generator) -> Intervention:
    angle = rng.uniform(-np.pi, np.pi)
    offset = _CAMERA_SHIFT * np.array([np.cos(angle), np.sin(angle), 0.0])
    return Intervention(lambda world: world.move_camera(offset))


def _replace(_state: np.ndarray, _rng: np.random.Generator) -> Intervention:
    return Intervention(lambda world: world.reset(state=world.state()))


STUCK = Violation(_stand_still, where=lambda states: lengths(states[:, :2]) > _STUCK)
CAMERA = Violation(_shift_camera)
REPLACED = Violation(_replace)  # the control, which must not surprise


def tip_violations(free) -> dict[str, Violation]:
    """Return the violations where there is but a tip; `free(tip)` is whether it may jump to a place (2,)."""

    def jumps(length: float) -> Violation:
        def stage(state: np.ndarray, rng: np.random.Generator) -> Intervention | None:
            tip = jump(state, length, rng, free)
            return None if tip is None else Intervention(lambda world: world.reset(state=tip))

        return Violation(stage)

    named = {name: jumps(length) for name, length in JUMPS.items()}
    return {**named, "stuck": STUCK, "camera": CAMERA, "replaced": REPLACED}


class TipTask(ArmTask):
    """Bring the tip of the stick to a place, which is all that a state says: (2,), in m."""

    reached: float  # tip to goal, m
    apart: float  # least distance of a goal that is drawn, m
    state_names = ("ee_x", "ee_y")
    probes = {"end effector": ("ee_x", "ee_y")}
    lewm = Protocol(
        f"start and goal {5 * WINDOW} control steps apart in one episode of the explorer; as published "
        "(arXiv 2603.19312), the robot waits for each plan",
        budget=50,
        waits=True,
        horizon=5,
    )

    def sample_goal(self, rng: np.random.Generator) -> np.ndarray:
        """Return a place (2,) more than `apart` from the tip."""
        return self._far_from(self.state(), rng)

    def distance(self, goal: np.ndarray) -> float:
        """Return the straight distance in m from the tip to `goal`."""
        return float(np.hypot(*(self.state() - self.checked(goal))))

    def criteria(self, goal: np.ndarray) -> dict[str, bool]:
        """Position: the tip is within `reached` of `goal`."""
        return {"position": self.distance(goal) < self.reached}

    def draw(self, protocol: str, rng: np.random.Generator) -> Start:
        """random: two places more than `apart`. lewm: the ends of five model steps of an explorer."""
        start = self.random_state(rng)
        if protocol == "lewm":
            return self.window(rng, lambda a, b: np.hypot(*(b - a)) > self.apart)
        return Start(start, self._far_from(start, rng))

    def _far_from(self, place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        while True:
            goal = self.random_state(rng)
            if np.hypot(*(goal - place)) > self.apart:
                return goal
