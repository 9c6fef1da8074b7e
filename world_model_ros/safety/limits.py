"""Limits of the actions that the command side may send, and the interfaces that can carry them.

For a position interface joint velocities become positions within these limits, in motion and at rest.
"""

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionSpec

# Seconds at full speed that the plan's positions may be ahead of the measured ones: joints follow a position
# command a few control steps late, and led from where they are measured they would never come to full speed.
LEASH = 0.2
DRIFT = 0.05  # rad at most that a held joint may sink before the lower place is held
ENDS = ("limits.position_low", "limits.position_high")


def narrowed(action: ActionSpec, low, high) -> ActionSpec:
    """Return the actions of a checkpoint within a robot's limits, each a number an action or empty.

    What the robot allows beyond the checkpoint's limits is not used: the model has never seen it.
    Raises UserError where the limits do not fit the actions, or leave nothing.
    """
    low, high = tuple(low) or action.low, tuple(high) or action.high
    Limits(action.names, low, high)  # raises where they are wrong
    low = tuple(map(max, low, action.low))
    high = tuple(map(min, high, action.high))
    Limits(action.names, low, high)
    return replace(action, low=low, high=high)


@dataclass(frozen=True)
class Clamped:
    """An action inside the limits, and which of them had to change it."""

    action: np.ndarray  # (dim,)
    by: tuple[str, ...]  # the limits by their parameters, such as limits.high or limits.max_step
    ends: tuple[tuple[str, int], ...] = ()  # which of ENDS, and of which joint


class Limits:
    """What one control step may do: an entry per named dimension, physical units.

    ``low``, ``high``: the action itself. ``max_step``: how much it may differ from the one before.
    ``position_low``, ``position_high``: where the joints may be, for actions that are joint velocities;
    a joint outside may only move back. None leaves a limit out.
    """

    def __init__(self, names, low, high, max_step=None, position_low=None, position_high=None):
        self.names = tuple(names)
        if not self.names:
            raise UserError("there are no actions to limit: the checkpoint names none.")
        self.low, self.high = self._array("low", low), self._array("high", high)
        for name, lowest, highest in zip(self.names, self.low, self.high, strict=True):
            if not lowest < highest:
                raise UserError(f"the limits of {name} are [{lowest}, {highest}]: low must be below high.")
            if not lowest <= 0.0 <= highest:
                raise UserError(f"the limits of {name} are [{lowest}, {highest}]: standing still must be in.")
        self.max_step = None if max_step is None else self._array("max_step", max_step)
        if self.max_step is not None and not (self.max_step > 0).all():
            raise UserError(f"the limit max_step is {list(self.max_step)}: it must be positive.")
        if (position_low is None) != (position_high is None):
            raise UserError("the limits position_low and position_high go together: give both, or neither.")
        self.positions = None
        if position_low is not None:
            self.positions = (
                self._array("position_low", position_low),
                self._array("position_high", position_high),
            )
            for name, lowest, highest in zip(self.names, *self.positions, strict=True):
                if not lowest < highest:
                    raise UserError(
                        f"the position limits of {name} are [{lowest}, {highest}]: low must be below high."
                    )

    def _array(self, what: str, values) -> np.ndarray:
        values = np.asarray(values, np.float64)
        if values.shape != (len(self.names),):
            raise UserError(
                f"the limit {what} is {values.tolist()}: give one number for each of {list(self.names)}."
            )
        if not all(map(math.isfinite, values.tolist())):
            raise UserError(f"the limit {what} is {values.tolist()}: every number must be finite.")
        return values

    def clamp(
        self,
        action: np.ndarray,
        previous: np.ndarray | None = None,
        positions: np.ndarray | None = None,
        period: float = 0.0,
    ) -> Clamped:
        """Return the action (dim,) inside the limits.

        previous (dim,) is the action of the step before; positions (dim,) are the joints' own now, and
        ``period`` how long the step lasts, in seconds. What is not given does not limit.
        Raises ValueError for another shape or numbers that are not finite.
        """
        action = np.asarray(action, np.float64)
        if action.shape != self.low.shape:
            raise ValueError(f"an action has shape {self.low.shape}, this one {action.shape}")
        if not np.isfinite(action).all():
            raise ValueError("the action is not finite")
        by, ends = [], ()
        ranges = [("low", "high", self.low, self.high)]
        if self.max_step is not None and previous is not None:
            ranges.append(("max_step", "max_step", previous - self.max_step, previous + self.max_step))
        # The last one wins: a joint's end stop matters more than a smooth start.
        if self.positions is not None and positions is not None and period > 0:
            with np.errstate(over="ignore"):  # an infinite limit is a right one
                lowest, highest = ((limit - positions) / period for limit in self.positions)
            # A joint outside may only move back, as fast as the first limit allows.
            lowest, highest = np.minimum(lowest, 0.0), np.maximum(highest, 0.0)
            ranges.append(("position_low", "position_high", lowest, highest))
        for below, above, lowest, highest in ranges:
            if (action < lowest).any():
                by.append(f"limits.{below}")
            if (action > highest).any() and f"limits.{above}" not in by:
                by.append(f"limits.{above}")
            if below == "position_low":
                beyond = zip(ENDS, (action < lowest, action > highest), strict=True)
                ends = tuple((limit, int(i)) for limit, joints in beyond for i in np.flatnonzero(joints))
            action = np.clip(action, lowest, highest)
        return Clamped(action, tuple(by), ends)

    def describe(self, unit: str) -> str:
        """Return all limits in a line, for people."""
        parts = []
        for i, name in enumerate(self.names):
            part = f"{name} {self.low[i]:g} to {self.high[i]:g}"
            part += " by any step" if self.max_step is None else f" in steps of at most {self.max_step[i]:g}"
            if self.positions is not None:
                part += f", at {self.positions[0][i]:g} to {self.positions[1][i]:g} rad"
            parts.append(part)
        return f"limits in force ({unit}): {'; '.join(parts)}"

    def inside(self, place: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Return positions (dim,) inside the position limits, where there are any.

        A joint that is ``measured`` outside of them may stay there, but not go further out.
        """
        if self.positions is None:
            return place
        low, high = self.positions
        return np.clip(place, np.minimum(low, measured), np.maximum(high, measured))


@dataclass(frozen=True)
class Limited:
    """What is sent of a planned action, and why not all of it."""

    action: np.ndarray  # (dim,)
    by: tuple[str, ...]  # the limits that changed it
    wrong: tuple[str, ...]  # those of them that make it a wrong one


class ActionLimiter:
    """Limits the planned actions of one control step after the other, each ``period`` seconds long.

    An action that is cut is a wrong one, of another robot or unit, but for this: a joint that stands at the
    end of its range is held there when it is asked to go on, as it is where the goal lies beyond. Then what
    the other limits would have cut, had the joints no ends, tells whether the action is wrong.
    """

    def __init__(self, limits: Limits, period: float):
        self.limits, self.period = limits, period
        speed = np.maximum(-limits.low, limits.high)
        self._near = np.maximum(speed * max(LEASH, period), DRIFT)  # (dim,) rad: a joint stands at an end
        self.reset()

    def reset(self) -> None:
        """Start from standing still."""
        self._cut: dict[str, int] = {}  # limit -> control steps since it changed an action
        self._held: dict[tuple[str, int], int] = {}  # the same of an end that holds a joint
        self.stand_still()

    def stand_still(self) -> None:
        """Note that the robot is told to stand still in this control step."""
        self.previous = np.zeros(len(self.limits.names))  # what was sent in the control step before
        self._endless = self.previous  # the same, had the joints no ends
        self.wrong_in_a_row = 0  # control steps

    def limit(self, planned: np.ndarray, share: float, positions: np.ndarray | None, keep: int) -> Limited:
        """Return what to send of the plan's action (dim,), and note it as sent.

        share: of it that is sent. positions (dim,): the joints', where known. keep: for how many control
        steps ``cut`` and ``held`` name a limit.
        """
        by = ()
        if share < 1.0:  # of what would be sent, so that a plan beyond the limits begins slowly too
            allowed = self.limits.clamp(planned)
            planned, by = allowed.action * share, allowed.by
        clamped = self.limits.clamp(planned, self.previous, positions, self.period)
        endless = self.limits.clamp(planned, self._endless)
        there = self._at_ends(positions)
        outside = {limit for limit, i in clamped.ends if (limit, i) not in there}
        cut = tuple(dict.fromkeys((*by, *clamped.by)))
        # After a joint was held, the step to the next action is no jump of the plan.
        wrong = tuple(dict.fromkeys((*by, *endless.by, *sorted(outside)))) if cut else ()
        self._cut = {limit: steps + 1 for limit, steps in self._cut.items() if steps < keep}
        self._cut |= dict.fromkeys(wrong, 0)
        self._held = {end: n + 1 for end, n in self._held.items() if n < keep and end in there}
        self._held |= {end: 0 for end in clamped.ends if end in there}
        self.wrong_in_a_row = self.wrong_in_a_row + 1 if wrong else 0
        self.previous, self._endless = clamped.action, endless.action
        return Limited(clamped.action, cut, wrong)

    def _at_ends(self, positions: np.ndarray | None) -> set[tuple[str, int]]:
        """Return the ends at which joints stand, each with its joint, a little inside or outside."""
        if positions is None or self.limits.positions is None:
            return set()
        near = (np.abs(positions - end) <= self._near for end in self.limits.positions)
        return {(limit, int(i)) for limit, at in zip(ENDS, near, strict=True) for i in np.flatnonzero(at)}

    @property
    def cut(self) -> list[str]:
        """The limits that changed an action lately: the status must not flicker between two such actions."""
        return sorted(self._cut)

    @property
    def held(self) -> list[str]:
        """The ends that held a joint lately which still stands there: limits.position_low of joint_4."""
        return [f"{limit} of {self.limits.names[i]}" for limit, i in sorted(self._held)]


INTERFACES = {"twist": ("twist", "twist_unstamped"), "joint_velocity": ("velocities", "joint_trajectory")}
TWIST_NAMES = ("linear_x", "linear_y", "linear_z", "angular_x", "angular_y", "angular_z")
UNITS = {"m/s", "rad/s"}  # REP 103: messages on command topics do not name their unit


def check_interface(action: ActionSpec, interface: str) -> None:
    """Raise UserError, naming both sides, unless ``interface`` can carry the checkpoint's actions."""
    fitting = INTERFACES.get(action.kind)
    if fitting is None:
        raise UserError(
            f"the checkpoint's actions are {action.kind} {list(action.names)} ({action.unit}), which "
            f"command_node cannot send: train on actions of the kind {' or '.join(INTERFACES)} for a robot."
        )
    if interface not in fitting:
        raise UserError(
            f"command.interface {interface!r} cannot carry the checkpoint's actions, which are "
            f"{action.kind} {list(action.names)} ({action.unit}): set it to {' or '.join(fitting)}."
        )
    units = [word for word in re.split(r"[\s,;]+|\band\b", action.unit) if word]
    if not units or not set(units) <= UNITS:
        raise UserError(
            f"the unit of the checkpoint's actions is {action.unit!r}, robots take m/s and rad/s: record and "
            "train in these."
        )
    if action.kind == "twist" and not set(action.names) <= set(TWIST_NAMES):
        raise UserError(
            f"the checkpoint's twist actions {list(action.names)} must be among {list(TWIST_NAMES)}."
        )


def warn_interface(interface: str) -> str:
    """Return the warning that a person must read before the robot moves, or ""."""
    if interface == "velocities":
        return (
            "command.interface is velocities: a forward_command_controller keeps the last velocity when "
            "command_node dies or its computer hangs. Use a controller that times out, or set a command "
            "timeout in the drives"
        )
    if interface == "twist_unstamped":
        return (
            "command.interface is twist_unstamped: a base cannot tell how old a Twist is, and one without a "
            "timeout keeps the last velocity when command_node dies. Use a base that stops when none comes"
        )
    return ""


@dataclass(frozen=True)
class Poses:
    """Two points of a trajectory, each (dim,): the end of this control step, and a step later, at rest."""

    end: np.ndarray
    velocity: np.ndarray  # at ``end``
    last: np.ndarray


class PoseKeeper:
    """Turns one action after the other into poses, for control steps of ``period`` seconds.

    At rest the poses are what was measured when the rest began. A measured pose that is farther from them
    than a control step may lead, or than DRIFT, was not caused by a load: the joints were moved by hand, and
    are held where they are now. In motion the poses are at most LEASH seconds at full speed ahead.
    """

    def __init__(self, limits: Limits, period: float):
        self.limits, self.period = limits, period
        self.reset()

    def reset(self) -> None:
        """Drop the poses at which the joints were held, and to which a plan led them."""
        self._held: np.ndarray | None = None
        self._desired: np.ndarray | None = None

    def poses(self, action: np.ndarray, moving: bool, measured: np.ndarray | None) -> Poses | None:
        """Return the poses for one action (dim,), the joints being at ``measured`` (dim,).

        None where that is not known: then there is no pose that would not move the robot.
        """
        if measured is None:
            self.reset()
            return None
        if moving:
            start, self._held = self._led(measured), None
        else:
            start, self._desired = self._rest(measured), None
        # The poses are ahead of the measured positions, by which the action was limited: limit them, too.
        end = self.limits.inside(start + action * self.period, measured)
        last = self.limits.inside(end + action * self.period / 2, measured)
        if moving:
            self._desired = end
        passing = np.where(last == end, 0.0, action)  # a joint that has come to its limit stops there
        return Poses(end, passing, last)

    def _led(self, measured: np.ndarray) -> np.ndarray:
        """Return the pose that the plan has led to, at most LEASH ahead of the measured one.

        Otherwise a blocked arm would be sent further and further, and would jump when it comes free.
        """
        if self._desired is None:
            return measured
        return np.clip(self._desired, measured + LEASH * self.limits.low, measured + LEASH * self.limits.high)

    def _rest(self, measured: np.ndarray) -> np.ndarray:
        # What is measured moves a little under a load: holding that would let the arm sink.
        low = np.maximum(self.limits.low * self.period, -DRIFT)
        high = np.minimum(self.limits.high * self.period, DRIFT)
        held = self._held
        if held is None or ((held - measured < low) | (held - measured > high)).any():
            self._held = measured.copy()
        return self._held
