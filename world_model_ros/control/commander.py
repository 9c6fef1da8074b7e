"""What the command side sends in each control step: one pure object, asked once a tick.

WAITING (nothing to go by) -> READY (joints seen, no plan yet) -> RUNNING (playing a plan)
-> HOLD (the plan is used up: standing still, recovers by itself) and FAULT (latched until reset).
"""

import enum
from dataclasses import dataclass

import numpy as np

from world_model_ros.control.limits import Limits
from world_model_ros.planning.action_buffer import ActionBuffer


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


class Commander:
    """Plays the buffered plan within the limits, and stands still whenever it must not."""

    def __init__(self, limits: Limits, buffer: ActionBuffer):
        self.limits = limits
        self.buffer = buffer
        self.clamped = 0  # control steps whose action had to be changed
        self.rejected = 0  # plans that were refused
        self._fault = ""
        self._last: tuple[State, str] | None = None
        self.forget()

    def forget(self) -> None:
        """Start over as after coming up; a fault stays."""
        self.buffer.clear()
        self._joints = False
        self._played = False
        self._now: int | None = None

    def joints(self) -> None:
        """Note that the robot reports its joints."""
        self._joints = True

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
            self.rejected += 1
        elif not self._fault:
            self.buffer.put(start, actions)
        return problem

    def emergency_stop(self) -> None:
        """Stand still from now on, until ``reset``."""
        self._fault = "emergency stop: call command/reset to go on"
        self.buffer.clear()

    def reset(self) -> None:
        """Clear a fault; the next plan moves the robot again."""
        self._fault = ""
        self.forget()

    def tick(self, now: int) -> Decision:
        """Decide for the control step that begins at ``now`` (ns)."""
        if self._now is not None and now < self._now:
            self.forget()
        self._now = now
        self.buffer.forget_before(now)
        planned = None if self._fault else self.buffer.action_at(now)
        still = np.zeros(len(self.limits.names))
        if self._fault:
            return self._decide(still, State.FAULT, self._fault)
        if not self._joints:
            return self._decide(None, State.WAITING, "no joint_states yet")
        if planned is not None:
            self._played = True
            action, changed = self.limits.clamp(planned)
            self.clamped += changed
            return self._decide(action, State.RUNNING, "playing the plan")
        if self._played:
            return self._decide(still, State.HOLD, "no plan for this moment: standing still until one comes")
        return self._decide(None, State.READY, "waiting for the first plan")

    def _decide(self, action, state: State, reason: str) -> Decision:
        changed = (state, reason) != self._last
        self._last = (state, reason)
        return Decision(action, state, reason, changed)
