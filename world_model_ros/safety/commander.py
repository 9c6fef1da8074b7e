"""What the command side sends in each control step: one pure object, asked once a tick.

WAITING (inputs missing) -> READY (all there, no plan yet) -> RUNNING (playing a plan)
-> HOLD (kept still, recovers by itself), FAULT (kept still until reset) and RELEASED (left to others).
"""

import enum
import math
from dataclasses import dataclass

import numpy as np

from world_model_ros.safety.action_buffer import ActionBuffer
from world_model_ros.safety.health import AnomalyHolds, Health, Rivals, Sources
from world_model_ros.safety.joints import JointCollector
from world_model_ros.safety.limits import Limits
from world_model_ros.safety.release import Ramp, Release
from world_model_ros.safety.watchdogs import SECOND, ClockWatch, FrameRate, Freshness, set_by

ON_ITS_WAY = 0.25  # seconds of real time within which no frame is missed under a simulated clock
STALLED = 1.0  # seconds of real time between two control steps after which messages may have been lost
CLOCK_HOLD = 1.0  # seconds of standing still after the clock was set: plans on the way are for the old time
ENCODER, PLANNER, MONITOR, COMMAND = "encoder_node", "planner_node", "monitor_node", "command_node"


class State(enum.Enum):
    """Where the command side stands."""

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
    released: bool  # nothing is sent since the robot is left to others, who may move it

    @property
    def moving(self) -> bool:
        """Whether the action comes from a plan; otherwise it means standing still."""
        return self.state is State.RUNNING


@dataclass
class Rules:
    """When the command side stands still; times in seconds, steps are control steps."""

    image_timeout: float = 0.275  # since the newest frame that was perceived
    joint_timeout: float = 0.5  # since the newest position of each joint
    pose_timeout: float = 0.5  # of real time, for which a measured pose may be held
    fresh_frames: int = 3  # that end a HOLD for missing ones
    clamped_steps: int = 40  # in a row, until this is a fault: the plans are for another robot
    step: float = 0.25  # a model step
    frame_interval: float = 0.1  # the longest one between two frames off the grid of model steps
    lease: float = 0.25  # of real time without a heartbeat, until a node is missed
    release_after: float = 0.5  # at rest, until nothing is sent any more
    ramp: float = 0.5  # of the first motion after a take-over
    override_time: float = 5.0  # in which a reset overrides a HOLD of monitor_node
    override_speed: float = 0.25  # share of the action that is played meanwhile
    repeated_holds_window: float = 20.0  # in which the third HOLD of monitor_node is a fault


class Commander:
    """Plays the buffered plan within the limits, and stands still whenever it must not.

    Every method takes the time on two clocks, in integer nanoseconds: the node's, on which plans are due,
    and one that is steady. ``clock`` says which of them ages are counted on.
    """

    def __init__(
        self,
        limits: Limits,
        buffer: ActionBuffer,
        rules: Rules | None = None,
        collector: JointCollector | None = None,
        clock: ClockWatch | None = None,
    ):
        self.limits, self.buffer = limits, buffer
        self.collector = collector or JointCollector()
        self.clock = clock or ClockWatch()
        self.sources, self.rivals = Sources(), Rivals()
        self.release_state = Release()
        self.counts = {"clamped": 0, "rejected_plans": 0, "holds": 0, "faults": 0}
        self._fault = ""
        self._moving = False  # in the last control step
        self._silent = False  # since the robot is released
        self._age = 0  # the newest time that ages are counted on
        self._steady = 0
        self._ramp, self._holds = Ramp(), AnomalyHolds()
        self.take(rules or Rules())
        self.begin()

    def take(self, rules: Rules) -> None:
        """Go by other rules from now on."""
        self.rules = rules
        self.sources.lease = rules.lease
        self._ramp.seconds = rules.ramp
        self._holds.override_time = rules.override_time
        self._holds.window = rules.repeated_holds_window

    def begin(self) -> None:
        """Start over as after coming up; a fault stays, and so does what the other nodes reported."""
        self.clock.reset()
        self.collector.reset()
        self.ever_moved = self._moving = self._silent = self._stop_due = False
        self._ticked: int | None = None  # when the last control step began, on the steady clock
        self._clock_hold: tuple[int, str] | None = None
        self._reset_inputs()

    def _reset_inputs(self) -> None:
        """Wait for all inputs again. Where the joints were is still known: a stop may be due."""
        self.buffer.clear()
        self.collector.restart()
        self._frames = Freshness(self.rules.fresh_frames)
        self._frame_rate = FrameRate(
            round(SECOND * self.rules.step), round(SECOND * self.rules.frame_interval)
        )
        self._frame_at = 0  # when the newest one came, in real time
        self._played = False
        self._rested_since: int | None = None
        self._previous = np.zeros(len(self.limits.names))
        self._clamped_in_a_row = 0
        self._cut: dict[str, int] = {}  # limit -> the control steps since it changed an action
        self._last: tuple[State, str] | None = None

    # What is heard.

    def joints(self, now: int, steady: int, names=(), positions=(), publisher=None) -> str:
        """Take joint states; return why they, or a part of them, are not used, or ""."""
        self._at(now, steady)
        return self.collector.add(self._age, steady, names, positions, publisher)

    def frame(self, now: int, steady: int, stamp: int) -> None:
        """Note that a camera frame was perceived.

        Liveness goes by receive time; a stamp a control step ahead is a clock that comes in steps.
        """
        self._at(now, steady)
        self._frames.heard(self._age + min(max(0, stamp - now), self.buffer.period))
        self._frame_rate.heard(stamp)
        self._frame_at = steady

    def report(
        self,
        name: str,
        steady: int,
        health: Health,
        reason: str = "",
        state: str = "active",
        values: dict | None = None,
    ) -> None:
        """Take the health message of another node; one of COMMAND is another process that commands."""
        if name == COMMAND:
            if state == "active":
                self.rivals.report(steady / SECOND)
            return
        self.sources.report(name, steady / SECOND, health, reason, state, values)
        if name == PLANNER and state == "active":
            was_released = bool(self.release_state.reason)
            self.release_state.planner(values or {}, self._played)
            if was_released and not self.release_state.reason:
                self._take_over()

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
        elif not (self._fault or self.release_state.reason):
            if self.sources.values(PLANNER).get("enabled") == "false":
                self.release_state.disabled()  # the plan is late, or not planner_node's
            elif not self._clock_hold:
                self.buffer.put(start, actions)
        return problem

    # What people ask for.

    def emergency_stop(self, reason: str = "emergency stop") -> None:
        """Stand still from now on, until ``reset``."""
        self._enter_fault(f"{reason}: call command/reset to go on")
        if self.release_state.reason:  # a stop is sent all the same, for a moment
            self._rested_since, self._stop_due = self._age, True

    def release(self) -> None:
        """Stop, and then send nothing: another node may command the robot."""
        self.release_state.ask()
        self.buffer.clear()

    def reset(self) -> str:
        """Clear a fault and take the robot back; return what happens now, for people."""
        self._fault = ""
        self.sources.clear_faults()
        self._holds.reset()
        held = self.sources.holds(MONITOR)
        if held:
            self._holds.override(self._age)
        if self.release_state.reason:
            self.release_state.take_back()
            self._take_over()
        else:
            self._reset_inputs()
        if held:
            return f"reset: goes on in spite of {self.sources.trouble(MONITOR)}, {self._slowly()}"
        return "reset: the next plan moves the robot again"

    def _take_over(self) -> None:
        self._reset_inputs()
        self._ramp.arm()

    def _slowly(self) -> str:
        return f"for {self.rules.override_time:g} s at {self.rules.override_speed:g} of the planned speed"

    def stop(self) -> None:
        """Begin anew, the robot having been told to stand still outside of a control step."""
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
        """Return the measured positions (dim,) of the joints; None where nobody knows where they are."""
        if self.collector.suspect(self._age):
            return None
        steady = self._steady if steady is None else steady
        return self.collector.positions(steady, round(SECOND * self.rules.pose_timeout))

    # The control step.

    def tick(self, now: int, steady: int) -> Decision:
        """Decide for the control step that begins at ``now``."""
        self._at(now, steady)
        stalled = 0 if self._ticked is None or self.clock.limit is None else steady - self._ticked
        self._ticked = steady
        if stalled > STALLED * SECOND and self._played and not self._fault:
            self._enter_fault(
                f"command_node did not run for {stalled / SECOND:.1f} s and may have missed an emergency "
                "stop: look at the robot, then call command/reset"
            )
        self.sources.look(steady / SECOND)
        self.buffer.drop_before(now)
        state, reason, planned = self._judge(now)
        still = np.zeros(len(self.limits.names))
        if state is State.RUNNING:
            action, reason = self._within_limits(planned, reason)
            if self._fault:
                state, reason, action = State.FAULT, self._fault, still
            self._played, self._rested_since = True, None
        else:
            self._clamped_in_a_row = 0
        silent = False
        if state is not State.RUNNING:
            # Between a motion, or an emergency stop, and the silence at least one stop goes out.
            due = self._moving or self._stop_due
            silent = bool(self.release_state.reason) and self._rested() and not due
            # Before anything has moved there is nothing to stop, and another controller may be at work.
            stopping = state is State.FAULT or (state in (State.HOLD, State.RELEASED) and self._played)
            action = still if not silent and (stopping or self._moving) else None
        if silent and state is State.FAULT:
            reason += " (released: nothing is sent)"
        self._moving, self._stop_due = state is State.RUNNING, False
        self.ever_moved = self.ever_moved or self._moving
        self._previous = still if action is None else action
        return self._decide(action, state, reason, silent)

    def _at(self, now: int, steady: int) -> None:
        """Forget what the clock makes meaningless where it was set."""
        leap = self.clock.look(now, steady)
        self._age, self._steady = self.clock.age_clock(now, steady), steady
        if self._clock_hold and self._age >= self._clock_hold[0]:
            self._clock_hold = None
        if not leap:
            return
        if self.clock.limit is None:  # ages are counted on it: what was heard before would stay fresh
            self.collector.clock_was_set()
            self._reset_inputs()
        else:
            self.buffer.clear()
            reason = f"the clock was set {set_by(leap)}: standing still until there are new plans"
            self._clock_hold = self._age + round(SECOND * CLOCK_HOLD), reason

    def _judge(self, now: int) -> tuple[State, str, np.ndarray | None]:
        """Return state, reason and, where RUNNING, the action (dim,) that the plan says."""
        overridden = self._holds.overridden(self._age)
        health, name, said = self.sources.worst(MONITOR if overridden else "")
        if health is Health.FAULT and not self._fault:
            self._enter_fault(f"{said}: call command/reset to go on")
        if self._fault:
            return State.FAULT, self._fault, None
        if self.release_state.reason:
            return State.RELEASED, self.release_state.reason, None
        if self.rivals.elsewhere:
            return State.HOLD, f"{self.rivals.elsewhere} commands this robot too: end one of them", None
        if self.rivals.present(self._steady / SECOND):
            return State.HOLD, "another command_node commands this robot: end one of them", None
        missing = self._missing()
        if missing:
            return State.WAITING, missing, None
        held = self._held(health, name, said)
        if self._fault:
            return State.FAULT, self._fault, None
        if held:
            return State.HOLD, held, None
        planned = self.buffer.action_at(now)
        if planned is not None:
            reason = "playing the plan"
            if overridden:
                reason += f" {self._slowly()} after the reset"
                trouble = self.sources.trouble(MONITOR)
                reason += f", in spite of {trouble}" if trouble else ""
            return State.RUNNING, reason, planned
        lacking = self._lacking()
        if self._played:
            return State.HOLD, f"no plan for this moment: {lacking or 'standing still until one comes'}", None
        return State.READY, "waiting for the first plan" + (f": {lacking}" if lacking else ""), None

    def _missing(self) -> str:
        """Return which input has never come, or ""."""
        if not self.collector.complete:
            return self.collector.missing()
        if not self._frames.ever:
            trouble = self.sources.trouble(ENCODER)
            return "no camera/image_raw perceived yet (nothing on latent)" + (
                f": {trouble}" if trouble else ""
            )
        unconfirmed = self.sources.unconfirmed()
        return f"{unconfirmed} has not reported since the reset" if unconfirmed else ""

    def _held(self, health: Health, name: str, said: str) -> str:
        """Return why the robot must stand still for now, or ""; the cause before what it brings about."""
        if self._clock_hold:
            return self._clock_hold[1]
        if health is Health.HOLD and name == ENCODER:
            return said
        suspect = self.collector.suspect(self._age)
        if suspect:
            return f"{suspect}: standing still"
        stale = self.collector.stale(self._age, round(SECOND * self.rules.joint_timeout))
        if stale:
            which = f" ({', '.join(stale)})" if self.collector.names else ""
            if self.collector.problem:
                return f"joint_states{which} cannot be used: {self.collector.problem}"
            return f"joint_states stopped{which}: standing still until they are back"
        self._frames.needed = self.rules.fresh_frames
        on_its_way = self.clock.limit is None and self._steady - self._frame_at < ON_ITS_WAY * SECOND
        timeout = math.inf if on_its_way else round(SECOND * self.rules.image_timeout)
        if not self._frames.fresh(self._age, timeout):
            trouble = self.sources.trouble(ENCODER)
            stopped = f"camera/image_raw stopped (nothing on latent): {trouble or 'standing still'}"
            lately = self._steady - self._frame_at < SECOND
            return (self._frame_rate.too_slow() if lately else "") or stopped
        slow = self._frame_rate.too_slow()
        if slow:
            return slow
        if health is not Health.HOLD:
            return ""
        if name == MONITOR and self.sources.holds(MONITOR):
            repeated = self._holds.began(self._age) if self._moving else ""
            if repeated:
                self._enter_fault(
                    f"{repeated} (last, {said}): check that camera and commands are those of the training, "
                    "then call command/reset"
                )
            return f"{said}; command/reset goes on {self._slowly()}"
        return said

    def _lacking(self) -> str:
        """Return what planner_node needs before it plans, or ""."""
        values = self.sources.values(PLANNER)
        lacking = []
        if values.get("goal") == "false":
            lacking.append("planner_node has no goal: publish goal/image or call planner/goal_from_camera")
        if values.get("enabled") == "false":
            lacking.append("planner_node is not enabled: call planner/enable")
        return "; ".join(lacking)

    def _rested(self) -> bool:
        """Return whether the robot has been told to stand still for long enough to leave it to others."""
        if self._moving or (self._rested_since is not None and self._age < self._rested_since):
            self._rested_since = self._age
        if self._rested_since is None:
            if self._played:
                self._rested_since = self._age
            return not self._played
        return self._age - self._rested_since >= round(SECOND * self.rules.release_after)

    def _share(self) -> float:
        """Return the share of the planned action that is sent in this control step."""
        share = self._ramp.share(self._age, self.buffer.period)
        return min(share, self.rules.override_speed) if self._holds.overridden(self._age) else share

    def _within_limits(self, planned: np.ndarray, reason: str) -> tuple[np.ndarray, str]:
        share, by = self._share(), ()
        if share < 1.0:  # of what would be sent, so that a wild plan begins slowly too
            allowed = self.limits.clamp(planned)
            planned, by = allowed.action * share, allowed.by
        period = self.buffer.period / SECOND
        clamped = self.limits.clamp(planned, self._previous, self.positions(), period)
        by = tuple(dict.fromkeys((*by, *clamped.by)))
        # Said for a while after the last one: plans that touch a limit now and then must not flicker.
        kept = self.rules.clamped_steps
        self._cut = {limit: steps + 1 for limit, steps in self._cut.items() if steps < kept}
        self._cut |= dict.fromkeys(by, 0)
        if self._cut:
            reason += f", cut to stay within the limits ({', '.join(sorted(self._cut))})"
        if not by:
            self._clamped_in_a_row = 0
            return clamped.action, reason
        self.counts["clamped"] += 1
        self._clamped_in_a_row += 1
        if self._clamped_in_a_row >= self.rules.clamped_steps:
            self._enter_fault(
                f"{self._clamped_in_a_row} actions in a row were outside the limits "
                f"({', '.join(by)}): check that the checkpoint is for this robot, then call "
                "command/reset"
            )
        return clamped.action, reason

    def _enter_fault(self, reason: str) -> None:
        self._fault = reason
        self.buffer.clear()

    def _decide(self, action, state: State, reason: str, released: bool) -> Decision:
        changed = (state, reason) != self._last
        if changed and (self._last is None or state is not self._last[0]):
            self.counts["holds"] += state is State.HOLD
            self.counts["faults"] += state is State.FAULT
        self._last, self._silent = (state, reason), released
        return Decision(action, state, reason, changed, released)
