"""What the command side sends in each control step: one pure object, asked once a tick.

WAITING (inputs missing) -> READY (all there, no plan yet) -> RUNNING (playing a plan)
-> HOLD (kept still, recovers by itself) and FAULT (kept still until reset).
"""

import enum
import math
from dataclasses import dataclass

import numpy as np

from world_model_ros.control.health import Health, Sources
from world_model_ros.control.limits import Limits
from world_model_ros.control.staleness import Freshness
from world_model_ros.planning.action_buffer import ActionBuffer

SECOND = 1_000_000_000
ON_ITS_WAY = 0.1  # seconds of real time within which no frame is missed
CLAMPED = "playing the plan, within the limits"


class State(enum.Enum):
    """Where the command side stands."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    HOLD = "hold"
    FAULT = "fault"


@dataclass(frozen=True)
class Decision:
    """The command of one control step; ``action`` None means that nothing is sent."""

    action: np.ndarray | None  # (dim,), within the limits
    state: State
    reason: str
    changed: bool  # state or reason differ from the last decision's

    @property
    def moving(self) -> bool:
        """Whether the action comes from a plan; otherwise it means standing still."""
        return self.state is State.RUNNING


@dataclass
class Rules:
    """When the command side stands still; times in seconds, steps are control steps."""

    image_timeout: float = 0.275  # since the newest frame that was perceived
    joint_timeout: float = 0.5  # since the newest joint states
    fresh_frames: int = 3  # that end a HOLD for missing ones
    clamped_steps: int = 40  # in a row, until this is a fault: the plans are for another robot


class Commander:
    """Plays the buffered plan within the limits, and stands still whenever it must not.

    Every time is integer nanoseconds on one clock, which the caller reads.
    """

    def __init__(self, limits: Limits, buffer: ActionBuffer, rules: Rules | None = None):
        self.limits = limits
        self.buffer = buffer
        self.rules = rules or Rules()
        self.sources = Sources()
        self.counts = {"clamped": 0, "rejected_plans": 0, "holds": 0, "faults": 0}
        self._fault = ""
        self._moving = False  # in the last control step
        self.ever_moved = False
        self.forget()

    def forget(self) -> None:
        """Start over as after coming up; a fault stays, and so does what the other nodes said."""
        self.buffer.clear()
        self._frames = Freshness(self.rules.fresh_frames)
        self._joints = Freshness(1)
        self._positions: np.ndarray | None = None
        self._played = False
        self._previous = np.zeros(len(self.limits.names))
        self._clamped_in_a_row = 0
        self._free_in_a_row = self.rules.clamped_steps
        self._now: int | None = None
        self._last: tuple[State, str] | None = None

    def joints(self, now: int, positions: np.ndarray | None = None) -> None:
        """Note that the robot reports its joints; positions (dim,) where the actions are joints'."""
        self._at(now)
        self._joints.heard(now)
        self._positions = positions

    def frame(self, now: int, stamp: int) -> None:
        """Note that a camera frame was perceived.

        Liveness goes by receive time; a stamp a control step ahead is a clock that comes in steps.
        """
        self._at(now)
        self._frames.heard(max(now, min(stamp, now + self.buffer.period)))

    def plan(self, names, start: int, actions: np.ndarray) -> str:
        """Take a plan (steps, dim) whose first action is due at ``start``; return why not, or ""."""
        problem = ""
        actions = np.asarray(actions, np.float64)
        if tuple(names) != self.limits.names:
            problem = f"the plan is for {list(names)}, this robot is commanded by {list(self.limits.names)}"
        elif actions.ndim != 2 or actions.shape[0] == 0 or actions.shape[1] != len(self.limits.names):
            problem = f"the plan has shape {actions.shape}, it must be (steps, {len(self.limits.names)})"
        elif not np.isfinite(actions).all():
            problem = "the plan holds numbers that are not finite"
        if problem:
            self.counts["rejected_plans"] += 1
        elif not self._fault:
            self.buffer.put(start, actions)
        return problem

    def emergency_stop(self) -> None:
        """Stand still from now on, until ``reset``."""
        self._enter_fault("emergency stop: call command/reset to go on")

    def reset(self) -> None:
        """Clear a fault; the next plan moves the robot again."""
        self._fault = ""
        self.sources.forgive()
        self.forget()

    def settle(self) -> None:
        """Note that the robot was told to stand still outside of a control step."""
        self._moving = False
        self._previous = np.zeros(len(self.limits.names))

    @property
    def moving(self) -> bool:
        """Whether the last command came from a plan."""
        return self._moving

    @property
    def state(self) -> tuple[State, str]:
        """State and reason of the last control step."""
        return self._last or (State.WAITING, "no control step yet")

    @property
    def positions(self) -> np.ndarray | None:
        """The measured positions (dim,) of the joints that the actions name."""
        return self._positions

    def tick(self, now: int, frame_age: float = math.inf) -> Decision:
        """Decide for the control step that begins at ``now``.

        frame_age is how many seconds of real time have passed since the newest frame came: a simulation
        may run so fast that its clock is ahead of a frame that is still on its way.
        """
        self._at(now)
        self.buffer.forget_before(now)
        state, reason, planned = self._judge(now, frame_age)
        still = np.zeros(len(self.limits.names))
        if state is State.RUNNING:
            action, reason = self._within_limits(planned, reason)
            if self._fault:
                state, reason, action = State.FAULT, self._fault, still
            self._played = True
        else:
            self._clamped_in_a_row = 0
            # Before anything has moved there is nothing to stop, and another controller may be at work.
            sends = state is State.FAULT or (state is State.HOLD and self._played) or self._moving
            action = still if sends else None
        self._moving = state is State.RUNNING
        self.ever_moved = self.ever_moved or self._moving
        self._previous = still if action is None else action
        return self._decide(action, state, reason)

    def _at(self, now: int) -> None:
        """Forget everything where the clock was set back: what was heard before would stay fresh."""
        if self._now is not None and now < self._now:
            self.forget()
        self._now = now

    def _judge(self, now: int, frame_age: float) -> tuple[State, str, np.ndarray | None]:
        """Return state, reason and, where RUNNING, the action (dim,) that the plan says."""
        health, said = self.sources.worst()
        if health is Health.FAULT and not self._fault:
            self._enter_fault(f"{said}: call command/reset to go on")
        if self._fault:
            return State.FAULT, self._fault, None
        if not self._joints.ever:
            return State.WAITING, "no joint_states yet", None
        if not self._frames.ever:
            return State.WAITING, "no camera/image_raw perceived yet (nothing on latent)", None
        if not self._joints.fresh(now, round(SECOND * self.rules.joint_timeout)):
            return State.HOLD, "joint_states stopped: standing still until they are back", None
        self._frames.needed = self.rules.fresh_frames
        timeout = math.inf if frame_age < ON_ITS_WAY else round(SECOND * self.rules.image_timeout)
        if not self._frames.fresh(now, timeout):
            return State.HOLD, "camera/image_raw stopped (nothing on latent): standing still", None
        if health is Health.HOLD:
            return State.HOLD, said, None
        planned = self.buffer.action_at(now)
        if planned is not None:
            return State.RUNNING, "playing the plan", planned
        if self._played:
            return State.HOLD, "no plan for this moment: standing still until one comes", None
        return State.READY, "waiting for the first plan", None

    def _within_limits(self, planned: np.ndarray, reason: str) -> tuple[np.ndarray, str]:
        clamped = self.limits.clamp(
            planned, self._previous, self._positions, period=self.buffer.period / SECOND
        )
        if not clamped.by:
            self._clamped_in_a_row = 0
            self._free_in_a_row += 1
            # Said for a while after the last one: plans that touch a limit now and then must not flicker.
            return clamped.action, reason if self._free_in_a_row > self.rules.clamped_steps else CLAMPED
        self._free_in_a_row = 0
        self.counts["clamped"] += 1
        self._clamped_in_a_row += 1
        if self._clamped_in_a_row >= self.rules.clamped_steps:
            self._enter_fault(
                f"{self._clamped_in_a_row} actions in a row were outside the limits "
                f"({', '.join(clamped.by)}): check that the checkpoint is for this robot, then call "
                "command/reset"
            )
        return clamped.action, CLAMPED

    def _enter_fault(self, reason: str) -> None:
        self._fault = reason
        self.buffer.clear()

    def _decide(self, action, state: State, reason: str) -> Decision:
        changed = (state, reason) != self._last
        if changed and (self._last is None or state is not self._last[0]):
            self.counts["holds"] += state is State.HOLD
            self.counts["faults"] += state is State.FAULT
        self._last = (state, reason)
        return Decision(action, state, reason, changed)
