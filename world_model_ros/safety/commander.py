"""What the command side sends in each control step: one pure object, called once a control step.

WAITING (inputs missing) -> READY (all there, no plan yet) -> RUNNING (playing a plan)
-> HOLD (kept still, recovers by itself), FAULT (kept still until reset) and RELEASED (left to others).
"""

import enum
from dataclasses import dataclass

import numpy as np

from world_model_ros.safety.action_buffer import ActionBuffer
from world_model_ros.safety.dead_man import DeadMan
from world_model_ros.safety.health import ENCODER, MONITOR, PLANNER, AnomalyHolds, Health
from world_model_ros.safety.inputs import Inputs
from world_model_ros.safety.joints import JointCollector
from world_model_ros.safety.limits import ENDS, ActionLimiter, Limits
from world_model_ros.safety.release import Ramp, Release
from world_model_ros.safety.watchdogs import SECOND, ClockWatch, set_by

STALLED = 1.0  # seconds of real time between two control steps after which messages may have been lost
MISSED = "may have missed an emergency stop: look at the robot, then call command/reset"
AHEAD = 2  # model steps that a plan may begin ahead of the clock; its sender has another one where it is more
LATE = "plans come after their time: synchronise the computers' clocks, or let planner_node plan faster"
NAMED = 5.0  # seconds for which a plan that could not be used is the cause of what is lacking
AGAIN = 0.9  # seconds of actions outside the limits after which that fault is back after a reset
PLAYING = "playing the plan"
AT_GOAL = "the goal is reached: standing still until the robot is away from it, or another goal comes"
SIMULATED_LEAP = 1.9  # model steps by which a simulated clock jumps ahead where the simulation begins anew
CLOCK_HOLD = 1.0  # seconds of standing still after the clock was set: plans on the way are for the old time


class State(enum.Enum):
    """The states of the command side."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    HOLD = "hold"
    FAULT = "fault"
    RELEASED = "released"


@dataclass(frozen=True)
class Decision:
    """The command of one control step; ``action`` None means that nothing is sent."""

    action: np.ndarray | None  # (dim,), within the limits
    state: State
    reason: str
    changed: bool  # state or reason differ from the last decision's
    released: bool  # nothing is sent: the robot is left to others, who may move it

    @property
    def moving(self) -> bool:
        """Whether the action comes from a plan; otherwise it keeps the robot still."""
        return self.state is State.RUNNING


@dataclass
class Rules:
    """When the command side keeps the robot still; times in seconds, steps are control steps."""

    image_timeout: float = 0.275  # since the newest perceived frame
    joint_timeout: float = 0.5  # since the newest position of each joint
    pose_timeout: float = 0.5  # of real time, for which a measured pose may be held
    fresh_frames: int = 3  # that end a HOLD for missing frames
    clamped_steps: int = 40  # outside the limits in a row that are a fault; held at a joint's end is none
    step: float = 0.25  # of the model
    frame_interval: float = 0.1  # the longest one between two frames off the grid of model steps
    lease: float = 0.25  # of real time without a heartbeat, until a node is missed
    release_after: float = 0.5  # at rest after a release, until nothing is sent any more
    ramp: float = 0.5  # in which the first motion after a take-over grows to full speed
    override_time: float = 5.0  # for which a reset overrides a HOLD of monitor_node
    override_speed: float = 0.25  # share of the planned action during an override
    repeated_holds_window: float = 20.0  # in which the third HOLD of monitor_node is a fault
    dead_man_timeout: float = 0.5  # of real time without a message of the dead-man switch


class Commander:
    """Plays the buffered plan within the limits, and keeps the robot still whenever it must not move.

    Every method takes the time on two clocks, in integer nanoseconds: ``now`` on the node's clock, on which
    plans are due, and ``steady`` on one that is never set. Ages are counted on real time, or on simulated
    time where ``clock`` is for a simulation.
    """

    def __init__(
        self,
        limits: Limits,
        buffer: ActionBuffer,
        rules: Rules | None = None,
        collector: JointCollector | None = None,
        clock: ClockWatch | None = None,
        dead_man: DeadMan | None = None,
    ):
        self.limits, self.buffer = limits, buffer
        self.dead_man = dead_man or DeadMan()
        self.inputs = Inputs(collector or JointCollector(), clock or ClockWatch())
        self.sources, self.rivals = self.inputs.sources, self.inputs.rivals
        self.limiter = ActionLimiter(limits, buffer.period / SECOND)
        self.release_state = Release()
        self.counts = {"clamped": 0, "rejected_plans": 0, "holds": 0, "faults": 0}
        self._fault = ""  # why the robot is kept still until a reset
        self._unused: tuple[int, str] | None = None  # when a plan came that could not be used, and why
        self._moving = False  # in the last control step
        self._silent = False  # nothing is sent: the robot is released
        self._ramp, self._holds = Ramp(), AnomalyHolds()
        self.take(rules or Rules())
        self.begin()

    def take(self, rules: Rules) -> None:
        """Apply other rules from now on."""
        self.rules = rules
        self.sources.lease = rules.lease
        self._ramp.seconds = rules.ramp
        self._holds.override_time = rules.override_time
        self._holds.window = rules.repeated_holds_window
        self.dead_man.timeout = rules.dead_man_timeout
        self._was_wrong = False  # whether actions outside the limits were a fault, and none within came since
        self.inputs.clock.ahead = SIMULATED_LEAP * SECOND * rules.step

    def begin(self) -> None:
        """Start over as after activation; a fault stays, and so do the reports of the other nodes."""
        self.inputs.clock.reset()
        self.inputs.collector.reset()
        self.dead_man.reset()
        self._switch = ""  # why the dead-man switch keeps the robot still
        self.ever_moved = self._moving = self._silent = self._stop_due = False
        self._ticked: int | None = None  # when the last control step began, on the steady clock
        self._clock_hold: tuple[int, str] | None = None  # until when, and why
        self._reset_inputs()

    def _reset_inputs(self) -> None:
        """Drop the plans and wait for all inputs again."""
        self.buffer.clear()
        self.limiter.reset()
        step, frame_interval = (round(SECOND * t) for t in (self.rules.step, self.rules.frame_interval))
        self.inputs.reset(self.rules.fresh_frames, step, frame_interval)
        self._played = False  # whether a plan has moved the robot since
        self._rested_since: int | None = None
        self._last: tuple[State, str] | None = None

    # What is heard.

    def joints(self, now: int, steady: int, names=(), positions=(), publisher=None) -> str:
        """Take joint states; return why they, or a part of them, are not used, or ""."""
        self._read_clocks(now, steady)
        return self.inputs.joints(names, positions, publisher)

    def frame(self, now: int, steady: int, stamp: int) -> None:
        """Note that a camera frame with this stamp was perceived.

        Its age is counted from when it came. The stamp may be up to a control step ahead of a clock that
        advances in control steps.
        """
        self._read_clocks(now, steady)
        self.inputs.frame(stamp, min(max(0, stamp - now), self.buffer.period))

    def report(
        self,
        name: str,
        steady: int,
        health: Health,
        reason: str = "",
        state: str = "active",
        values: dict | None = None,
    ) -> None:
        """Take the health message of a node; one of COMMAND comes from another process that commands."""
        self.inputs.report(name, steady, health, reason, state, values)
        if name == PLANNER and state == "active":
            was_released = bool(self.release_state.reason)
            self.release_state.planner(values or {}, self._played)
            if was_released and not self.release_state.reason:
                self._take_over()

    def plan(self, now: int, names, start: int, actions: np.ndarray) -> str:
        """Take a plan (steps, dim) whose first action is due at ``start``; return why not, or ""."""
        problem = ""
        actions = np.asarray(actions, np.float64)
        if tuple(names) != self.limits.names:
            problem = f"the plan is for {list(names)}, this robot is commanded by {list(self.limits.names)}"
        elif actions.ndim != 2 or actions.shape[0] == 0 or actions.shape[1] != len(self.limits.names):
            problem = f"the plan has shape {actions.shape}, it must be (steps, {len(self.limits.names)})"
        elif not np.isfinite(actions).all():
            problem = "the plan holds numbers that are not finite"
        elif start - now > AHEAD * SECOND * self.rules.step:
            ahead = (start - now) / SECOND
            problem = f"the plan begins {ahead:.1f} s ahead of this clock: synchronise the computers' clocks"
            self._unused = self.inputs.age, "plans begin too far ahead: synchronise the computers' clocks"
        if problem:
            self.counts["rejected_plans"] += 1
        elif not (self._fault or self.release_state.reason):
            if self.sources.values(PLANNER).get("enabled") == "false":
                self.release_state.disabled()  # the plan is late, or not planner_node's
            elif self.buffer.is_over(now, start, len(actions)):
                self._unused = self.inputs.age, LATE
            elif not self._clock_hold:
                self.buffer.put(start, actions)
                self._unused = None
        return problem

    # What people ask for.

    def emergency_stop(self, reason: str = "emergency stop") -> None:
        """Keep the robot still from now on, until ``reset``."""
        self._enter_fault(f"{reason}: call command/reset to go on")
        if self.release_state.reason:  # a stop is sent all the same, for a moment
            self._rested_since, self._stop_due = self.inputs.age, True

    def may_have_missed(self, who: str) -> bool:
        """Enter a fault where a stop may have been lost while a plan moved the robot, unless there is one.

        Return whether there is a fault now of a robot that is not left to others.
        """
        if self._played and not self._fault and not self.release_state.reason:
            self._enter_fault(f"{who} {MISSED}")
        return bool(self._fault) and not self.release_state.reason

    def release(self) -> None:
        """Stop, and then send nothing: another node may command the robot."""
        self.release_state.ask()
        self.buffer.clear()

    def reset(self) -> str:
        """Clear a fault and take the robot back; return what happens now, for people."""
        self._fault = ""
        self.sources.clear_faults()
        self._holds.reset()
        overrides = self.sources.holds(MONITOR)
        if overrides:
            self._holds.override(self.inputs.age)
        if self.release_state.reason:
            self.release_state.take_back()
            self._take_over()
        else:
            self._reset_inputs()
        if overrides:
            return f"reset: goes on in spite of {self.sources.trouble(MONITOR)}, {self._slowly()}"
        return "reset: the next plan moves the robot again"

    def _take_over(self) -> None:
        self._reset_inputs()
        self._ramp.arm()

    def _slowly(self) -> str:
        return f"for {self.rules.override_time:g} s at {self.rules.override_speed:g} of the planned speed"

    def stop(self) -> None:
        """Start over: the caller has told the robot to stand still outside of a control step."""
        self._reset_inputs()
        self._moving = False

    # What is known.

    @property
    def moving(self) -> bool:
        """Whether the last command came from a plan."""
        return self._moving

    @property
    def state(self) -> tuple[State, str]:
        """State and reason of the last control step."""
        return self._last or (State.WAITING, "no control step yet")

    @property
    def released(self) -> bool:
        """Whether nothing is sent since the robot is left to others."""
        return self._silent

    def positions(self, steady: int | None = None) -> np.ndarray | None:
        """Return the measured positions (dim,) of the joints; None where they are not known."""
        return self.inputs.positions(
            self.inputs.steady if steady is None else steady, self.rules.pose_timeout
        )

    # The control step.

    def tick(self, now: int, steady: int) -> Decision:
        """Decide on the command of the control step that begins at ``now``."""
        self._read_clocks(now, steady)
        self._check_pause(steady)
        self.sources.look(steady / SECOND)
        self.buffer.drop_before(now)
        self._switch = self.dead_man.problem(steady)
        if self._switch:
            self._ramp.arm()  # a person takes the robot over, or nobody has it
        state, reason, planned = self._next_state(now)
        if state is State.RUNNING:
            action, reason = self._limited(planned, reason)
            self._played, self._rested_since, silent = True, None, False
            if self._fault:
                state, reason = State.FAULT, self._fault
        if state is not State.RUNNING:
            self.limiter.stand_still()
            action, silent = self._standstill(state)
        if silent and state is State.FAULT:
            reason += " (released: nothing is sent)"
        self._moving, self._stop_due = state is State.RUNNING, False
        self.ever_moved = self.ever_moved or self._moving
        return self._decide(action, state, reason, silent)

    def _next_state(self, now: int) -> tuple[State, str, np.ndarray | None]:
        """Return state, reason and, where RUNNING, the planned action (dim,)."""
        overridden = self._holds.overridden(self.inputs.age)
        health, name, trouble = self.sources.worst(MONITOR if overridden else "")
        if health is Health.FAULT and not self._fault:
            self._enter_fault(f"{trouble}: call command/reset to go on")
        if self._fault:
            return State.FAULT, self._fault, None
        if self.release_state.reason:
            return State.RELEASED, self.release_state.reason, None
        if rival := self.inputs.rival():
            return State.HOLD, rival, None
        if missing := self.inputs.missing():
            return State.WAITING, missing, None
        hold = self._hold_reason(health, name, trouble)
        if self._fault:
            return State.FAULT, self._fault, None
        if hold:
            return State.HOLD, hold, None
        planned = self.buffer.action_at(now)
        if planned is not None:
            return State.RUNNING, self._running_reason(overridden, bool(planned.any())), planned
        lacking = self._planner_lacks()
        if self._played:
            return (
                State.HOLD,
                f"no plan covers the present time: {lacking or 'standing still until one comes'}",
                None,
            )
        return State.READY, "waiting for the first plan" + (f": {lacking}" if lacking else ""), None

    def _hold_reason(self, health: Health, name: str, trouble: str) -> str:
        """Return why the robot must stand still for now, or ""; a cause comes before its effects.

        health, name, trouble: the worst that a node reports.
        """
        if self._switch:
            return self._switch
        if self._clock_hold:
            return self._clock_hold[1]
        if health is Health.HOLD and name == ENCODER:
            return trouble
        problem = self.inputs.joints_problem(self.rules.joint_timeout) or self.inputs.camera_problem(
            self.rules.image_timeout, self.rules.fresh_frames
        )
        if problem:
            return problem
        if health is not Health.HOLD:
            return ""
        if name == MONITOR and self.sources.holds(MONITOR):
            repeated = self._holds.began(self.inputs.age) if self._moving else ""
            if repeated:
                self._enter_fault(
                    f"{repeated} (last, {trouble}): check that camera and commands are those of the "
                    "training, then call command/reset"
                )
            return f"{trouble}; command/reset goes on {self._slowly()}"
        return trouble

    def _limited(self, planned: np.ndarray, reason: str) -> tuple[np.ndarray, str]:
        """Return the action (dim,) to send, and the reason with the limits that have cut it."""
        share = self._ramp.share(self.inputs.age, self.buffer.period)
        if self._holds.overridden(self.inputs.age):
            share = min(share, self.rules.override_speed)
        limited = self.limiter.limit(planned, share, self.positions(), self.rules.clamped_steps)
        if self.limiter.cut:
            reason += f", cut to stay within the limits ({', '.join(self.limiter.cut)})"
        if self.limiter.held and not reason.startswith(AT_GOAL):
            held = f"held at {', '.join(self.limiter.held)}: the goal may lie beyond it"
            reason = held if reason == PLAYING else f"{held}; {reason}"
        self.counts["clamped"] += bool(limited.by)
        most = self.rules.clamped_steps
        if self._was_wrong:
            self._was_wrong = bool(limited.wrong) or share < 1.0  # a slow start stays within them
            most = min(most, max(1, round(AGAIN * SECOND / self.buffer.period)))
        if self.limiter.wrong_in_a_row >= most:
            self._was_wrong = True
            self._enter_fault(
                f"{self.limiter.wrong_in_a_row} actions in a row {self._what_is_wrong(limited.wrong)}, then "
                "call command/reset"
            )
        return limited.action, reason

    @staticmethod
    def _what_is_wrong(by: tuple[str, ...]) -> str:
        if set(by) <= set(ENDS):
            return (
                f"ask a joint that is outside of its range to go on ({', '.join(by)}): move it back inside, "
                "and check the position limits"
            )
        return f"were outside the limits ({', '.join(by)}): check that the checkpoint is for this robot"

    def _standstill(self, state: State) -> tuple[np.ndarray | None, bool]:
        """Return zeros (dim,), or None to send nothing, and whether that is because the robot is released.

        Between a motion, or an emergency stop, and the silence after a release at least one stop is sent.
        Before anything has moved there is nothing to stop, and another controller may be at work.
        """
        due = self._moving or self._stop_due
        silent = bool(self.release_state.reason) and self._rested() and not due
        stopping = state is State.FAULT or (state in (State.HOLD, State.RELEASED) and self._played)
        sends = not silent and (stopping or self._moving)
        return (np.zeros(len(self.limits.names)) if sends else None), silent

    # What the control step needs.

    def _read_clocks(self, now: int, steady: int) -> None:
        """Drop what is meaningless where the node's clock was set."""
        leap = self.inputs.look(now, steady)
        if self._clock_hold and self.inputs.age >= self._clock_hold[0]:
            self._clock_hold = None
        if not leap:
            return
        if self.inputs.simulated:  # ages are counted on it: what was heard before is of another time
            self.inputs.collector.clock_was_set()
            self._reset_inputs()
        else:
            self.buffer.clear()
            reason = f"the clock was set {set_by(leap)}: standing still until there are new plans"
            self._clock_hold = self.inputs.age + round(SECOND * CLOCK_HOLD), reason

    def _check_pause(self, steady: int) -> None:
        """Enter a fault where this process did not run for so long that it may have missed a stop."""
        paused = 0 if self._ticked is None or self.inputs.simulated else steady - self._ticked
        self._ticked = steady
        if paused > STALLED * SECOND and self._played and not self._fault:
            self._enter_fault(f"command_node did not run for {paused / SECOND:.1f} s and {MISSED}")

    def _running_reason(self, overridden: bool, moves: bool) -> str:
        if not overridden:
            at_goal = not moves and self.sources.values(PLANNER).get("reached") == "true"
            return AT_GOAL if at_goal else PLAYING
        trouble = self.sources.trouble(MONITOR)
        return f"{PLAYING} {self._slowly()} after the reset" + (f", in spite of {trouble}" if trouble else "")

    def _planner_lacks(self) -> str:
        """Return what planner_node needs before it plans, or why its plans are not used, or ""."""
        values = self.sources.values(PLANNER)
        lacking = []
        if self._unused and 0 <= self.inputs.age - self._unused[0] <= NAMED * SECOND:
            lacking.append(self._unused[1])
        if values.get("goal") == "false":
            lacking.append("planner_node has no goal: publish goal/image or call planner/goal_from_camera")
        if values.get("enabled") == "false":
            lacking.append("planner_node is not enabled: call planner/enable")
        return "; ".join(lacking)

    def _rested(self) -> bool:
        """Return whether the robot has been kept still for long enough to leave it to others."""
        age = self.inputs.age
        if self._moving or (self._rested_since is not None and age < self._rested_since):
            self._rested_since = age
        if self._rested_since is None:
            if self._played:
                self._rested_since = age
            return not self._played
        return age - self._rested_since >= round(SECOND * self.rules.release_after)

    def _enter_fault(self, reason: str) -> None:
        self._fault = reason
        self.buffer.clear()

    def _decide(self, action: np.ndarray | None, state: State, reason: str, released: bool) -> Decision:
        changed = (state, reason) != self._last
        if changed and (self._last is None or state is not self._last[0]):
            self.counts["holds"] += state is State.HOLD
            self.counts["faults"] += state is State.FAULT
        self._last, self._silent = (state, reason), released
        return Decision(action, state, reason, changed, released)
