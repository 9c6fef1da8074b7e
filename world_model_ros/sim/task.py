"""The base class of all tasks: the attributes and methods that every verb relies on (docs/new_task.md)."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from world_model_ros.model.config import ActionInterface

WINDOW = 5  # model steps between start and goal of a problem cut out of an explorer's episode
COLOURED = 0.2  # by how much, of 1, a colour exceeds the others in a pixel of a thing that has it
_REHEARSAL = 16  # model steps


@dataclass(frozen=True)
class Protocol:
    """How the problems of an evaluation are drawn and run."""

    description: str
    budget: int  # control steps a problem
    waits: bool = False  # the robot waits for each plan; otherwise it plans while it moves
    horizon: int | None = None  # model steps, where the protocol fixes it; None: the objective's default


class Start(NamedTuple):
    """A problem: two states, and the action that led to the first one where an explorer made it."""

    start: np.ndarray
    goal: np.ndarray
    last_action: np.ndarray | None = None


class Intervention(NamedTuple):
    """The change of a world that makes a violation happen."""

    begin: Callable[["Task"], None] = lambda _: None  # once, between two model steps
    # instead of `step`, in the model step that follows
    act: Callable[["Task", np.ndarray], None] = lambda world, action: world.step(action)


@dataclass(frozen=True)
class Violation:
    """An event that a world model should not expect, staged between two model steps of an episode.

    stage(state, rng) returns what to do at a state, or None where it is impossible there. where(states)
    returns for states (K + 1, S) of an episode after which of the first K it may be done; None: after all.
    """

    stage: Callable[[np.ndarray, np.random.Generator], Intervention | None]
    where: Callable[[np.ndarray], np.ndarray] | None = None


class Task(abc.ABC):
    """A simulated robot and its goals; an instance is one world.

    A state is a vector of float64 that holds everything that `place` needs. An action is held for one
    control step of `period` seconds; `block` control steps make a model step. Equal seeds and actions
    must give equal states and images, to the bit, whatever this process did before. A coordinate whose
    name has "yaw" in it is an angle in rad; the others are m.

    A subclass sets the attributes without a value and implements the abstract methods; everything else
    has a default. Its constructor takes (seed, gui, image_size) and ends with `reset(seed)`.
    """

    task: str  # what --task calls it; `module:Class` unless it is found under a name
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]  # `sim` can move it where these are parts of a twist, such as linear_x
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    goal_words: str  # completes "reached means that ..."
    criterion: str = "position"  # the one of `criteria` that decides success
    action_kind = "twist"
    action_unit = "m/s"
    action_frame = ""
    period = 0.05  # s
    substeps = 8  # moments in a control step at which a camera can take its frame
    block = 5
    joint_names: tuple[str, ...] = ()
    engine = ""  # that simulates it, for the record in episode files
    goal_budget = 100  # control steps that `sim` gives a goal
    # Of evaluation by name, the task's own first; `draw` draws their problems.
    protocols: ClassVar[dict[str, Protocol]] = {"random": Protocol("start and goal drawn at random", 50)}
    # What is read out of the latents: coordinates of the state, by a name that has "angle" in it for one in
    # rad. The first one is what the actions move. Empty: every coordinate by itself.
    probes: ClassVar[dict[str, tuple[str, ...]]] = {}
    # The one of `probes`, a position in m, that the protocol imagination reads from pictures; "": the first.
    pictured: ClassVar[str] = ""
    violations: ClassVar[dict[str, Violation]] = {}  # by name; none: the protocol surprise is refused

    image_size = 128  # pixels; `render` follows a change
    _twin: "Task | None" = None

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.task = f"{cls.__module__}:{cls.__qualname__}"

    def __init__(self, seed: int = 0, gui: bool = False, image_size: int = 128):  # noqa: ARG002
        self.image_size = image_size
        self.reset(seed)

    @abc.abstractmethod
    def place(self, state: np.ndarray) -> None:
        """Put everything at rest at a checked state (S,)."""

    @abc.abstractmethod
    def move(self, action: np.ndarray, after: Callable[[int], None]) -> None:
        """Move for one control step with `action` (A,), which is within the limits.

        Call `after(i)` after each of the `substeps` parts of it, i from 1 on.
        """

    @abc.abstractmethod
    def state(self) -> np.ndarray:
        """Return the present state (S,), float64, as `state_names` says."""

    @abc.abstractmethod
    def render(self) -> np.ndarray:
        """Return what the camera sees, uint8 (image_size, image_size, 3) RGB."""

    @abc.abstractmethod
    def random_state(self, rng: np.random.Generator) -> np.ndarray:
        """Return a state (S,) that an episode may start in."""

    @abc.abstractmethod
    def explorer(self, seed):
        """Return an object whose `action(state)` gives the action (A,) of the next control step.

        It drives the collection of episodes: it should go wherever a plan may lead. `seed` is anything
        that numpy.random.default_rng takes.
        """

    @abc.abstractmethod
    def distance(self, goal: np.ndarray) -> float:
        """Return the distance in m from the present state to `goal` (S,)."""

    @abc.abstractmethod
    def criteria(self, goal: np.ndarray) -> dict[str, bool]:
        """Return whether `goal` is reached, by each criterion; the one that counts is `criterion`."""

    def success(self, goal: np.ndarray) -> bool:
        """Return whether `goal` is reached."""
        return self.criteria(goal)[self.criterion]

    def turned(self, goal: np.ndarray) -> float | None:  # noqa: ARG002
        """Return the angle in rad, at least 0, to `goal`; None where no angle counts."""
        return None

    @classmethod
    def distance_words(cls, distance: float, angle: float | None = None) -> str:
        """Return a distance, in m and rad, as the goal line of `sim` and the report print it."""
        return f"{1e3 * distance:.0f} mm" + ("" if angle is None else f" and {np.degrees(angle):.0f}°")

    def sample_goal(self, rng: np.random.Generator) -> np.ndarray:
        """Return a goal (S,) that is not reached now and can be; the world stays as it is."""
        while True:
            goal = self.random_state(rng)
            if not self.success(goal):
                return goal

    def tidy(self) -> None:  # noqa: B027
        """Put back, before the next of several goals, what the robot cannot; by default nothing."""

    def draw(self, protocol: str, rng: np.random.Generator) -> Start:  # noqa: ARG002
        """Return an unsolved problem of one of `protocols`; the world stays as it is."""
        start = self.random_state(rng)
        twin = self.twin()
        twin.reset(state=start)
        return Start(start, twin.sample_goal(rng))

    @classmethod
    def marks(cls, pictures: np.ndarray) -> np.ndarray | None:  # noqa: ARG003
        """Return numbers (N, K) that tell in pictures uint8 (N, H, W, 3) where `pictured` is.

        Such as the centre of a colour. A regression fitted on real frames turns them into m; None: it gets
        the pixels.
        """
        return None

    def joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (J,) rad and velocities (J,) rad/s of `joint_names`."""
        return np.zeros(len(self.joint_names)), np.zeros(len(self.joint_names))

    def checked(self, state: np.ndarray) -> np.ndarray:
        """Return a state given from outside as float64 (S,); ValueError where it cannot be one."""
        state = np.asarray(state, float)
        if state.shape != (len(self.state_names),) or not np.all(np.isfinite(state)):
            raise ValueError(
                f"a state is {', '.join(self.state_names)}, finite; this one is {state.tolist()}"
            )
        return state

    def close(self) -> None:
        """Free what the world holds."""
        if self._twin is not None:
            self._twin.close()

    # What follows is the same for all tasks.

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

        Without either, the next random start of the last seed given. Raises ValueError for a state that
        `checked` refuses.
        """
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.place(self.random_state(self._rng) if state is None else self.checked(state))

    def step(self, action: np.ndarray, after: Callable[[int], None] = lambda _: None) -> None:
        """Move for one control step with `action` (A,), clipped to the limits.

        `after(i)` is called after each of its `substeps` parts, i from 1 on: `render` shows the world as
        it is then. Raises ValueError for another shape or numbers that are not finite.
        """
        action = np.asarray(action, float)
        if action.shape != (len(self.action_names),) or not np.all(np.isfinite(action)):
            raise ValueError(
                f"an action is {len(self.action_names)} finite numbers, this one is {action.tolist()}"
            )
        self.move(np.clip(action, self.action_low, self.action_high), after)

    def goal_image(self, goal: np.ndarray) -> np.ndarray:
        """Return what the camera will see at `goal`, uint8 (image_size, image_size, 3).

        It is drawn in a world of its own, so the present one stays as it is. Raises ValueError as `reset`.
        """
        twin = self.twin()
        twin.reset(state=goal)
        return twin.render()

    def problem(self, protocol: str, seed: int) -> Start:
        """Return the problem of one of `protocols` that `seed` draws, unsolved; the world stays as it is.

        Raises ValueError for another protocol.
        """
        if protocol not in self.protocols:
            raise ValueError(f"{self.task} has no protocol {protocol!r}, only {', '.join(self.protocols)}")
        # Not the stream of reset(seed): problems must not begin where recorded episodes do.
        return self.draw(protocol, np.random.default_rng((seed, 0x60A1)))

    def tool(self) -> np.ndarray | None:
        """Return the position (3,) of what the actions move, in m in `action_frame`; None: not known."""
        return None

    def twin(self) -> "Task":
        """Return a second world of the same task, to try things in."""
        if self._twin is None:
            self._twin = type(self)(image_size=self.image_size)
        return self._twin

    def rehearse(self, rng: np.random.Generator, start: np.ndarray) -> tuple[list, list]:
        """Return states and last actions at each model step of an explorer that begins at `start`."""
        twin = self.twin()
        twin.reset(state=start)
        explorer = self.explorer(int(rng.integers(2**31)))
        states, actions = [twin.state()], [np.zeros(len(self.action_names))]
        for _ in range(_REHEARSAL):
            for _ in range(self.block):
                action = explorer.action(twin.state())
                twin.step(action)
            states.append(twin.state())
            actions.append(action)
        return states, actions

    def window(self, rng: np.random.Generator, apart: Callable[[np.ndarray, np.ndarray], bool]) -> Start:
        """Return the ends, `apart`, of five model steps of a new explorer's episode (LeWM's protocol)."""
        while True:
            states, actions = self.rehearse(rng, self.random_state(rng))
            windows = zip(states[1:], states[1 + WINDOW :], actions[1:], strict=False)
            windows = [Start(*window) for window in windows if apart(*window[:2])]
            if windows:
                return windows[rng.integers(len(windows))]


def coloured_marks(*excesses: np.ndarray) -> np.ndarray:
    """Return centre (x, y in -1..1) and area of what each excess of a colour (N, H, W) shows: (N, 3 K)."""
    marks = []
    for excess in excesses:
        rows, columns = np.linspace(-1, 1, excess.shape[1])[:, None], np.linspace(-1, 1, excess.shape[2])
        amount = np.where(excess > COLOURED, excess, 0)
        area = amount.sum((1, 2))
        marks += [(amount * at).sum((1, 2)) / np.maximum(area, 1e-3) for at in (columns, rows)]
        marks.append(area / rows.size / columns.size)
    return np.stack(marks, axis=1)


def yaw_difference(a, b) -> np.ndarray:
    """Return the angle from `b` to `a` in rad, in [-pi, pi)."""
    return (np.asarray(a) - np.asarray(b) + np.pi) % (2 * np.pi) - np.pi
