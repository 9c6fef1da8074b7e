"""The clocks of the simulated robot and of its camera, and the judgement of its goals by control steps.

The robot's clock is kept in step with the nodes, since the loop must not depend on how fast the machine is:
before time goes on, the simulation waits for what is due, as long as it keeps coming. A source that let it
wait in vain is not waited for until it is heard again, so a killed node slows nothing.

The camera has a clock of its own. Pictures can be taken between two steps of the physics only, so a frame is
taken at the nearest one and stamped with that moment: what jitters is the capture, and the stamp tells the
truth about it.
"""

import math
import statistics
from dataclasses import dataclass

import numpy as np

from world_model_ros.sim.task import Task

SECOND = 1_000_000_000


class Source:
    """One stream of stamped messages that the clock waits for; times are integer nanoseconds."""

    def __init__(self):
        self.newest: int | None = None
        self.waited_for = False

    def expect(self) -> None:
        """Wait for it from now on: its publisher is there."""
        self.waited_for = True

    def heard(self, stamp: int) -> None:
        """Note a message for the moment ``stamp``."""
        self.newest = stamp if self.newest is None else max(stamp, self.newest)
        self.waited_for = True

    def missed(self) -> None:
        """Stop waiting: the timeout is over."""
        self.waited_for = False

    def ready(self, moment: int) -> bool:
        """Return whether time may go on past ``moment``."""
        return not self.waited_for or (self.newest is not None and self.newest >= moment)


class CameraClock:
    """The moments at which frames are taken, ns; each a whole number of physics steps.

    rate: frames a second; jitter: s, how much earlier or later than due each may be; step: ns of a physics
    step. Two frames are at least half a frame's time and two physics steps apart, as a shutter needs.
    """

    def __init__(self, rate: float, jitter: float, step: int, seed: int = 0):
        self.rate, self.jitter, self.step = rate, jitter, step
        self._rng = np.random.default_rng((seed, 2))
        self._apart = max(2 * step, round(SECOND / rate / 2))
        self._number = 0
        self._last: int | None = None
        self._next = self._draw()

    def _draw(self) -> int:
        due = self._number * SECOND / self.rate + SECOND * self._rng.uniform(-self.jitter, self.jitter)
        self._number += 1
        earliest = 0 if self._last is None else self._last + self._apart
        steps = round(due / self.step)
        return self.step * max(steps, -(-earliest // self.step))

    def taken(self, after: int, until: int) -> list[int]:
        """Return the moments after ``after`` and up to ``until``, in order; earlier ones go by unused."""
        moments = []
        while self._next <= until:
            self._last = self._next
            if self._next > after:
                moments.append(self._next)
            self._next = self._draw()
        return moments


class ClockGuard:
    """Tells whether /clock is published by somebody else: by what is heard on it, ours being known."""

    def __init__(self):
        self._ours: dict[int, None] = {}
        self.foreign = False

    def published(self, stamp: int) -> None:
        """Note a time that we publish."""
        self._ours[stamp] = None
        while len(self._ours) > 1000:
            del self._ours[next(iter(self._ours))]

    def heard(self, stamp: int) -> None:
        """Note a time that was heard, our own ones too."""
        self.foreign = self.foreign or stamp not in self._ours


@dataclass(frozen=True)
class GoalResult:
    """How one goal ended."""

    reached: bool
    distance: float  # metres
    steps: int  # control steps since its first plan
    angle: float | None = None  # rad, where an angle counts
    reason: str = ""  # why it was missed, in a few words


class GoalCounter:
    """Judges one goal, control step by control step.

    Reached: ``success`` for ``settle`` control steps in a row. Missed: ``budget`` control steps after
    the first plan; without a plan there is nothing to judge.
    """

    def __init__(self, budget: int, settle: int = 5):
        self.budget = budget
        self.settle = settle
        self.planned = False
        self.steps = 0
        self._inside = 0

    def first_plan(self) -> None:
        """Begin to count: a plan for this goal is being played."""
        self.planned = True

    def step(self, success: bool, distance: float) -> GoalResult | None:
        """Judge after one more control step; return the result once there is one."""
        if not self.planned:
            return None
        self.steps += 1
        self._inside = self._inside + 1 if success else 0
        if self._inside >= self.settle:
            return GoalResult(True, distance, self.steps)
        if self.steps >= self.budget:
            return GoalResult(False, distance, self.steps)
        return None


def goal_line(number: int, total: int, result: GoalResult, world: Task, planning_ms: float | None) -> str:
    """Return the line people read after a goal; ``total`` 0 means endlessly many."""
    of = f"{number}/{total}" if total else f"{number}"
    planning = "" if planning_ms is None else f", planning {planning_ms:.0f} ms"
    return (
        f"goal {of} {'reached' if result.reached else 'missed'}: "
        f"{world.distance_words(result.distance, result.angle)}, {result.steps} steps, "
        f"{result.steps * world.period:.1f} s{planning}{result.reason and ': ' + result.reason}"
    )


def missed_because(world: Task, goal: np.ndarray) -> str:
    """Return in a few words why ``goal`` counts as missed, by where the world is when its time is over."""
    if world.success(goal):
        return "reached too late to stay"
    criteria = world.criteria(goal)
    if not criteria.get("standing", True):
        return "fallen"
    return "in place but turned" if criteria.get("position") else "not arrived"


def summary_line(results: list[GoalResult], seconds: float) -> str:
    """Return the last line of a run: successes with their 95 % interval; ``seconds`` is how long it took."""
    reached = [result for result in results if result.reached]
    steps = f", median {statistics.median(r.steps for r in reached):.0f} steps" if reached else ""
    low, high = wilson_interval(len(reached), len(results))
    rate = f"{100 * len(reached) / len(results):.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{len(reached)} of {len(results)} goals reached, {rate}{steps}, {seconds:.0f} s"


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (95 % by default).

    Unlike the normal approximation it stays inside [0, 1] and has the right coverage at 0 and 100 %
    (Wilson 1927). Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials is not a proportion")
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # at 0 and n of n the bounds are 0 and 1 exactly, up to rounding
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)
