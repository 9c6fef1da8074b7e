"""The simulated tasks: a Panda moves a stick over a table, to a place (`reach`) or a T to a pose (`push`)."""

import abc
from typing import NamedTuple

import numpy as np

from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionInterface, CheckpointSpec, interface_differences
from world_model_ros.sim import TASKS, kinematics
from world_model_ros.sim.block import clearance
from world_model_ros.sim.explorers import make_explorer
from world_model_ros.sim.robot_description import STICK_RADIUS
from world_model_ros.sim.scene import (
    PERIOD,
    WORKSPACE_CENTRE,
    WORKSPACE_HALF,
    WORKSPACE_HIGH,
    WORKSPACE_LOW,
    Scene,
)

_OUTSIDE = 0.01  # how far outside the workspace a given state may lie before it is refused, m

REACHED = 0.03  # tip to goal, m
_APART = 0.08  # least distance of a reach goal, m
PUSHED = 0.04  # block to goal, m
TURNED = np.radians(20)
_START_HALF = 0.10  # of the square that blocks start in, m
_GOAL_HALF = 0.12  # of the square that goals of the block lie in, m
_CLEAR = STICK_RADIUS + 0.01  # free space around the tip at a start, m
# A push goal is a pose that the explorer's own pushing leads to (LeWM's protocol): from a start where the
# block is about to move this far, _WINDOW model steps on.
_MOVED, _MOVED_ANGLE = 0.05, np.radians(25)
_WINDOW = 5
_REHEARSAL = 16  # model steps
_TRIES = 10  # of a fifth of a second each, in which the clock of the simulation stands


def yaw_difference(a, b) -> np.ndarray:
    """Angle from `b` to `a` in rad, in [-pi, pi)."""
    return (np.asarray(a) - np.asarray(b) + np.pi) % (2 * np.pi) - np.pi


class Start(NamedTuple):
    """A problem: two states, and the action that led to the first where an explorer came by it."""

    start: np.ndarray
    goal: np.ndarray
    last_action: np.ndarray | None = None


class World(abc.ABC):
    """One simulated robot and its task.

    Actions are velocities of the stick's tip in the plane of the table, held for one control step of
    `period` seconds; `block` of them make a model step. Equal seeds and actions give equal states and
    images, to the bit, whatever this process did before. Use `make_world`.
    """

    task: str
    criterion: str  # the one that decides success
    protocols: tuple[str, ...]  # of problems, the task's own first
    state_names: tuple[str, ...]
    patience: int  # control steps after which a goal of ``sample_goal`` is given up
    action_names = ("linear_x", "linear_y")
    action_kind = "twist"
    action_unit = "m/s"
    action_frame = "panda_link0"
    action_low = (-0.4, -0.4)
    action_high = (0.4, 0.4)
    period = PERIOD
    block = 5
    joint_names = kinematics.ARM_JOINTS

    def __init__(self, seed: int = 0, gui: bool = False, image_size: int = 128):
        if image_size < 8:
            raise UserError(
                f"an image of {image_size} pixels shows nothing: choose an image size of at least 8."
            )
        self.image_size = image_size
        self._scene = Scene(with_block=self.task == "push", gui=gui)
        self._twin: World | None = None
        self._command = WORKSPACE_CENTRE.copy()
        self.reset(seed)

    @classmethod
    def interface(cls) -> ActionInterface:
        """Return what a checkpoint must have in common with this task."""
        return ActionInterface(
            cls.action_names,
            cls.action_kind,
            cls.action_unit,
            cls.action_frame,
            cls.action_low,
            cls.action_high,
            cls.period,
            cls.block,
        )

    def reset(self, seed: int | tuple[int, ...] | None = None, state: np.ndarray | None = None) -> None:
        """Start an episode: from `state`, or from a random one drawn from `seed`.

        Without either, the next random start of the last seed given. Raises ValueError for a state of
        another shape, not finite, or with the tip outside the workspace.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        state = self._random_start(self._rng) if state is None else self._checked(state)
        self._command = np.clip(state[:2], WORKSPACE_LOW, WORKSPACE_HIGH)
        self._scene.place(self._command, state[2:])

    def step(self, action: np.ndarray) -> None:
        """Move for one control step with `action` (2,) in m/s, clipped to the limits and the workspace.

        Raises ValueError for another shape or numbers that are not finite.
        """
        action = np.asarray(action, float)
        if action.shape != (2,) or not np.all(np.isfinite(action)):
            raise ValueError(f"an action is two finite numbers, this one is {action.tolist()}")
        velocity = np.clip(action, self.action_low, self.action_high)
        end = np.clip(self._command + velocity * self.period, WORKSPACE_LOW, WORKSPACE_HIGH)
        self._scene.move(self._command, end)
        self._command = end

    def render(self) -> np.ndarray:
        """What the camera sees, uint8 (image_size, image_size, 3) RGB."""
        return self._scene.picture(self.image_size)

    @abc.abstractmethod
    def state(self) -> np.ndarray:
        """Present state, float64, as `state_names` says; m and rad in panda_link0."""

    def move_camera(self, offset: np.ndarray) -> None:
        """Shift the camera by (3,) m from where it belongs; `reset` puts it back."""
        self._scene.move_camera(offset)

    def joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (7,) rad and velocities (7,) rad/s of `joint_names`."""
        return self._scene.joints()

    @abc.abstractmethod
    def sample_goal(self, rng: np.random.Generator) -> np.ndarray:
        """Return a random goal state that is not reached now and can be; the world stays as it is."""

    def goal_image(self, goal: np.ndarray) -> np.ndarray:
        """What the camera will see at `goal`, uint8 (image_size, image_size, 3).

        It is drawn in a scene of its own, so the present one stays as it is. Raises ValueError as `reset`.
        """
        twin = self._rehearsal()
        twin.reset(state=goal)
        return twin.render()

    @abc.abstractmethod
    def distance(self, goal: np.ndarray) -> float:
        """Distance in m to `goal`: of the tip (reach) or of the block (push)."""

    @abc.abstractmethod
    def criteria(self, goal: np.ndarray) -> dict[str, bool]:
        """Whether `goal` is reached, by each of the task's criteria; the one that counts is `criterion`."""

    def success(self, goal: np.ndarray) -> bool:
        """Whether `goal` is reached."""
        return self.criteria(goal)[self.criterion]

    @abc.abstractmethod
    def problem(self, protocol: str, seed: int) -> Start:
        """Return a problem of one of `protocols` drawn from `seed`, unsolved; the world stays as it is.

        Raises ValueError for another protocol.
        """

    def close(self) -> None:
        """Free the physics engine."""
        self._scene.close()
        if self._twin is not None:
            self._twin.close()

    @abc.abstractmethod
    def _random_start(self, rng: np.random.Generator) -> np.ndarray: ...

    def _rehearse(self, rng: np.random.Generator, start: np.ndarray) -> tuple[list, list]:
        """States and last actions at each model step of an explorer that begins at `start`."""
        twin = self._rehearsal()
        twin.reset(state=start)
        explorer = make_explorer(self.task, int(rng.integers(2**31)))
        states, actions = [twin.state()], [np.zeros(2)]
        for _ in range(_REHEARSAL):
            for _ in range(self.block):
                action = explorer.action(twin.state())
                twin.step(action)
            states.append(twin.state())
            actions.append(action)
        return states, actions

    def _window(self, rng: np.random.Generator, apart) -> Start:
        """Return the ends, `apart`, of five model steps of a new explorer's episode (LeWM's protocol)."""
        while True:
            states, actions = self._rehearse(rng, self._random_start(rng))
            windows = zip(states[1:], states[1 + _WINDOW :], actions[1:], strict=False)
            windows = [Start(*window) for window in windows if apart(*window[:2])]
            if windows:
                return windows[rng.integers(len(windows))]

    def _rehearsal(self) -> "World":
        if self._twin is None:
            self._twin = type(self)(image_size=self.image_size)
        return self._twin

    def _checked(self, state: np.ndarray) -> np.ndarray:
        state = np.asarray(state, float)
        if state.shape != (len(self.state_names),) or not np.all(np.isfinite(state)):
            raise ValueError(
                f"a state is {', '.join(self.state_names)}, finite; this one is {state.tolist()}"
            )
        if np.any(np.abs(state[:2] - WORKSPACE_CENTRE) > WORKSPACE_HALF + _OUTSIDE):
            raise ValueError(f"the tip at {state[:2].tolist()} is outside the workspace")
        return state


class ReachWorld(World):
    """Bring the tip within 3 cm of a place."""

    task = "reach"
    criterion = "position"
    protocols = ("random", "lewm")
    state_names = ("ee_x", "ee_y")
    patience = 75

    def state(self) -> np.ndarray:
        """Position of the tip, (2,)."""
        return self._scene.tip()

    def sample_goal(self, rng: np.random.Generator) -> np.ndarray:
        """Return a place (2,) more than 8 cm from the tip."""
        return self._far_from(self.state(), rng)

    def distance(self, goal: np.ndarray) -> float:
        """Distance in m from the tip to `goal`."""
        return float(np.hypot(*(self.state() - self._checked(goal))))

    def criteria(self, goal: np.ndarray) -> dict[str, bool]:
        """Position: the tip is within 3 cm of `goal`."""
        return {"position": self.distance(goal) < REACHED}

    def problem(self, protocol: str, seed: int) -> Start:
        """Random: two places more than 8 cm apart. lewm: the ends of five model steps of an explorer."""
        rng = _problem_rng(seed)
        start = self._random_start(rng)
        if protocol == "random":
            return Start(start, self._far_from(start, rng))
        _check_protocol(self, protocol)
        return self._window(rng, lambda a, b: np.hypot(*(b - a)) > _APART)

    def _random_start(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH)

    def _far_from(self, place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        while True:
            goal = self._random_start(rng)
            if np.hypot(*(goal - place)) > _APART:
                return goal


class PushWorld(World):
    """Push a T of 15 cm within 4 cm and 20 degrees of a pose."""

    task = "push"
    criterion = "pose"
    protocols = ("lewm", "far")
    state_names = ("ee_x", "ee_y", "block_x", "block_y", "block_yaw")
    patience = 200

    def state(self) -> np.ndarray:
        """Position of the tip and pose of the block, (5,)."""
        return np.concatenate([self._scene.tip(), self._scene.block_pose()])

    def place_block(self, pose: np.ndarray) -> None:
        """Put the block at rest at (x, y, yaw) in m and rad; the arm goes on as it was."""
        self._scene.move_block(pose)

    def remove_block(self) -> None:
        """Take the block out of sight and reach until `reset`."""
        self._scene.move_block(self._scene.block_pose(), height=-1.0)

    def paint_block(self, colour: tuple[float, float, float, float]) -> None:
        """Give the block another colour (RGBA in 0..1) until `reset`."""
        self._scene.paint_block(colour)

    def sample_goal(self, rng: np.random.Generator) -> np.ndarray:
        """Return a state (5,) that pushing for at most four seconds leads to from the present one."""
        now = self.state()
        for _ in range(_TRIES):
            states, _ = self._rehearse(rng, now)
            goals = [s for s in states if _moved(now, s) and _near_the_middle(s)]
            if goals:
                return goals[rng.integers(len(goals))]
        return self._random_start(rng)  # the block lies where the stick cannot get behind it

    def distance(self, goal: np.ndarray) -> float:
        """Distance in m from the block to its place in `goal`."""
        return float(np.hypot(*(self.state() - self._checked(goal))[2:4]))

    def turned(self, goal: np.ndarray) -> float:
        """Angle in rad, at least 0, between the block and its pose in `goal`."""
        return float(abs(yaw_difference(self.state()[4], self._checked(goal)[4])))

    def criteria(self, goal: np.ndarray) -> dict[str, bool]:
        """Position: the block is within 4 cm. Pose: and within 20 degrees. And the tip within 4 cm."""
        near = self.distance(goal) < PUSHED
        posed = near and self.turned(goal) < TURNED
        tip = np.hypot(*(self.state() - self._checked(goal))[:2]) < PUSHED
        return {"position": near, "pose": posed, "pose_with_effector": bool(posed and tip)}

    def problem(self, protocol: str, seed: int) -> Start:
        """lewm: the ends of five model steps of an explorer's push. far: two poses of their own.

        Between start and goal the block moved by more than 5 cm or turned by more than 25 degrees.
        """
        rng = _problem_rng(seed)
        if protocol == "far":
            while True:
                start, goal = self._random_start(rng), self._random_start(rng)
                if _moved(start, goal):
                    return Start(start, goal)
        _check_protocol(self, protocol)
        return self._window(rng, lambda a, b: _moved(a, b) and _near_the_middle(a) and _near_the_middle(b))

    def _random_start(self, rng: np.random.Generator) -> np.ndarray:
        block = np.append(
            WORKSPACE_CENTRE + rng.uniform(-_START_HALF, _START_HALF, 2), rng.uniform(-np.pi, np.pi)
        )
        while True:
            tip = rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH)
            if clearance(tip, block) > _CLEAR:
                return np.concatenate([tip, block])


_KINDS = {kind.task: kind for kind in (ReachWorld, PushWorld)}


def protocols_of(task: str) -> tuple[str, ...]:
    """Return the protocols of a task's problems, its own first."""
    return _KINDS[task].protocols


def check_world(spec: CheckpointSpec, task: str) -> None:
    """Refuse (UserError) a checkpoint whose actions mean something else than the task's, with both sides."""
    sides = ("in the checkpoint", f"in {task}")
    differing = interface_differences(spec.interface, _KINDS[task].interface(), sides)
    if differing:
        raise UserError(
            f"the checkpoint does not fit the task {task}: {'; '.join(differing)}. Give a checkpoint that "
            "was trained on this task's episodes."
        )


def make_world(task: str, seed: int = 0, gui: bool = False, image_size: int = 128) -> World:
    """Return a World of `task` at the random start of `seed`. Raises UserError for an unknown task."""
    if task not in _KINDS:
        raise UserError(f"there is no task {task!r}: choose one of {', '.join(TASKS)}.")
    return _KINDS[task](seed, gui, image_size)


def _problem_rng(seed: int) -> np.random.Generator:
    # Not the stream of reset(seed): problems must not begin where recorded episodes do.
    return np.random.default_rng((seed, 0x60A1))


def _check_protocol(world: World, protocol: str) -> None:
    if protocol not in world.protocols:
        raise ValueError(f"{world.task} has no protocol {protocol!r}, only {', '.join(world.protocols)}")


def _moved(before: np.ndarray, after: np.ndarray) -> bool:
    far = np.hypot(*(after - before)[2:4]) > _MOVED
    return bool(far or abs(yaw_difference(after[4], before[4])) > _MOVED_ANGLE)


def _near_the_middle(state: np.ndarray) -> bool:
    return bool(np.all(np.abs(state[2:4] - WORKSPACE_CENTRE) < _GOAL_HALF))
