"""Joint states by name: their order is not guaranteed, and several publishers may share the joints."""

import math
from collections import Counter

import numpy as np

SECOND = 1_000_000_000
TURN = 2 * math.pi
NEAR_A_TURN = 0.5  # rad by which a jump may differ from a whole turn
MARGIN = 3.0  # a joint that moves this much faster than it may is still believed
LAG = 0.1  # seconds by which publishers of the same joints may be apart
NOISE = 0.01  # rad
CONTRADICTED = 1.0  # seconds without another contradiction after which positions are believed again
JUMPED = 0.5  # likewise, after a jump of one publisher's
FARTHEST = 1e9  # rad, or m: no joint is farther away


def match_joints(wanted, names, values, topic: str = "joint_states") -> np.ndarray:
    """Return the entries (len(wanted),) of ``values`` that belong to the wanted joints.

    Raises ValueError when one is missing, named twice or not finite; others are ignored.
    """
    names = list(names)
    if len(names) != len(values):
        raise ValueError(f"{topic} has {len(names)} names and {len(values)} values")
    counts, by_name = Counter(names), dict(zip(names, values, strict=True))
    for name in wanted:
        if counts[name] != 1:
            raise ValueError(f"{topic} has the joint {name} {counts[name]} times, once is needed")
    matched = np.array([by_name[name] for name in wanted], np.float64)
    if not np.isfinite(matched).all():
        raise ValueError(f"{topic} holds numbers that are not finite")
    return matched


def integrate(positions: np.ndarray, velocities: np.ndarray, period: float) -> np.ndarray:
    """Return the positions (steps, joints) at the end of each control step of ``velocities``."""
    return np.asarray(positions) + np.cumsum(np.asarray(velocities), axis=0) * period


def split_names(names: str) -> tuple[str, ...]:
    """Return the names in a text such as "joint5, joint7"."""
    return tuple(name for name in names.replace(",", " ").split() if name)


class JointCollector:
    """The newest position of each wanted joint, whoever publishes it, and since when it is known.

    names: the joints (dim,), of which joint_states has ``prefix`` + name. continuous: those without an end,
    whose positions are unwrapped. speed (dim,): how fast they may move, in rad/s. Without names (a robot
    whose actions are no joints') only that something is published counts. Times are integer nanoseconds.
    publishers() names all that publish joint_states, for messages that do not tell whose they are.
    """

    def __init__(self, names=(), prefix: str = "", continuous=(), speed=None, publishers=tuple):
        self.names = tuple(names)
        self.prefix = prefix
        self.wanted = {prefix + name: i for i, name in enumerate(self.names)}
        self.continuous = frozenset(continuous)
        self._all_publishers = publishers
        self._speed = np.full(len(self.names), math.inf) if speed is None else np.asarray(speed, np.float64)
        self.reset()

    def reset(self) -> None:
        """Drop all positions, and wait for all joints to be reported."""
        self._positions = np.full(len(self.names), math.nan)
        self._measured = np.zeros(len(self.names), np.int64)
        self._steady = np.zeros(len(self.names), np.int64)
        self._publishers: list = [None] * len(self.names)
        self._suspect: tuple[int, int, str] | None = None  # (since, for how long, why)
        self._foreign: tuple[str, ...] = ()  # names of others' joints
        self.problem = ""  # why the newest message about our joints is not used, or a part of it
        self.restart()

    def restart(self) -> None:
        """Wait for all joints to be reported again; the positions stay known."""
        self._heard: dict[int, int] = {}  # joint -> when its newest position came
        self._anything: int | None = None

    def add(self, now: int, steady: int, names, positions, publisher=None) -> str:
        """Take a message; return why it, or a part of it, is not used, or "".

        ``now`` is on the clock that ages are counted on, ``steady`` real time, and ``publisher`` tells
        publishers apart, None where that is not known. Joints that are not wanted are ignored.
        """
        names, positions = list(names), list(positions)
        ours = [name for name in names if name in self.wanted]
        if self.names and not ours:
            self._foreign = tuple(names)
            return ""
        add = self._add_ours if self.names else self._add_any
        self.problem = add(now, steady, names, positions, publisher)
        return self.problem

    def _add_ours(self, now: int, steady: int, names: list, positions: list, publisher) -> str:
        ours = [name for name in names if name in self.wanted]
        if len(names) != len(positions):
            return f"joint_states has {len(names)} names and {len(positions)} values"
        counts = Counter(ours)
        for name, count in counts.items():
            if count > 1:
                return f"joint_states has the joint {name} {count} times, once is needed"
        problem = ""
        for name, position in zip(names, positions, strict=True):
            if name not in self.wanted:
                continue
            if not math.isfinite(position):
                problem = "joint_states holds numbers that are not finite"
            elif abs(position) > FARTHEST:
                problem = f"joint_states has {name} at {position:.3g}, where no joint is"
            else:
                self._take(now, steady, self.wanted[name], float(position), publisher)
        return problem

    def _add_any(self, now: int, steady: int, names: list, positions: list, publisher) -> str:  # noqa: ARG002
        # Nothing is computed from them, but a robot that reports nonsense is not to be moved. A base may
        # report velocities alone.
        if positions and len(names) != len(positions):
            return f"joint_states has {len(names)} names and {len(positions)} values"
        if not np.isfinite(np.asarray(positions, np.float64)).all():
            return "joint_states holds numbers that are not finite"
        if any(count > 1 for count in Counter(names).values()):
            return f"joint_states has the joint {Counter(names).most_common(1)[0][0]} more than once"
        self._anything = now
        return ""

    def _take(self, now: int, steady: int, i: int, position: float, publisher) -> None:
        name, last = self.prefix + self.names[i], self._positions[i]
        if math.isfinite(last):
            leap = position - last
            if self.names[i] in self.continuous or name in self.continuous:
                leap = math.remainder(leap, TURN)
                position = last + leap
            passed = max(0, now - int(self._measured[i])) / SECOND
            if abs(leap) > self._speed[i] * (MARGIN * passed + LAG) + NOISE:
                several = publisher is not None and publisher != (self._publishers[i] or publisher)
                reason = self._describe(name, leap, self._publishers[i] if several else None, publisher)
                self._suspect = now, round(SECOND * (CONTRADICTED if several else JUMPED)), reason
        self._positions[i], self._measured[i], self._publishers[i] = position, now, publisher
        self._steady[i], self._heard[i] = steady, now

    def _describe(self, name: str, leap: float, other: str | None, publisher: str | None) -> str:
        turns = round(leap / TURN)
        if other is not None:
            return f"joint_states of {other} and of {publisher} contradict each other about {name}"
        if abs(turns) == 1 and abs(leap - turns * TURN) < NEAR_A_TURN:
            return (
                f"joint_states: {name} jumped by {leap:.2f} rad, about a turn: name it in the parameter "
                "continuous_joints if it has no end"
            )
        told = f"joint_states: {name} jumped, faster than it can move"
        everybody = self._all_publishers() if publisher is None else ()
        if len(everybody) > 1:
            told += f", or {' and '.join(everybody)} contradict each other"
        return told

    def suspect(self, now: int) -> str:
        """Return why the positions are not believed now, or ""."""
        if self._suspect is not None and not 0 <= now - self._suspect[0] <= self._suspect[1]:
            self._suspect = None
        return self._suspect[2] if self._suspect else ""

    def clock_was_set(self) -> None:
        """Believe the next message whatever its positions: the time since the last one is not known."""
        self._suspect = None
        self._measured[:] = -(2**62)

    @property
    def complete(self) -> bool:
        """Whether every joint was reported since the (re)start."""
        return len(self._heard) == len(self.names) if self.names else self._anything is not None

    def missing(self) -> str:
        """Return why not every joint was reported, for people."""
        if self.complete:
            return ""
        if self.problem:
            return f"no joint_states that can be used yet: {self.problem}"
        if not self.names:
            return "no joint_states yet"
        absent = [self.prefix + name for i, name in enumerate(self.names) if i not in self._heard]
        if len(absent) == len(self.names) and not self._foreign:
            return "no joint_states yet"
        text = f"no position of {', '.join(absent)} in joint_states yet"
        if self._foreign:
            text += f", which has {', '.join(self._foreign)}"
        guess = next((g for name in self._foreign if (g := self._prefix_of(name)) is not None), None)
        if guess is not None and guess != self.prefix:
            text += f": set the parameter joint_prefix to '{guess}'"
        return text

    def _prefix_of(self, name: str) -> str | None:
        return next((name.removesuffix(ours) for ours in self.names if name.endswith(ours)), None)

    def stale(self, now: int, timeout: float) -> tuple[str, ...]:
        """Return the joints whose position is older than ``timeout`` (ns), of those that were reported."""
        if not self.names:
            old = self._anything is not None and now - self._anything > timeout
            return ("joint_states",) if old else ()
        return tuple(
            self.prefix + self.names[i] for i, at in sorted(self._heard.items()) if now - at > timeout
        )

    def unusable(self, steady: int, timeout: int) -> str:
        """Return which joints have no position that is at most ``timeout`` ns old, for people, or ""."""
        known = np.isfinite(self._positions) & (steady - self._steady <= timeout)
        absent = [self.prefix + name for name, there in zip(self.names, known, strict=True) if not there]
        if not absent:
            return ""
        joints = ", ".join(absent)
        if self.complete:
            reason = f"joint_states had no position of {joints} for more than {timeout / SECOND:g} s"
            return f"{reason}: {self.problem}" if self.problem else reason
        reason = self.missing()
        return reason if joints in reason else f"{reason}: the position of {joints} is needed"

    def positions(self, steady: int, timeout: int) -> np.ndarray | None:
        """Return the newest positions (dim,); None unless all are known, and at most ``timeout`` ns old."""
        if not self.names or not np.isfinite(self._positions).all():
            return None
        return None if (steady - self._steady > timeout).any() else self._positions.copy()
