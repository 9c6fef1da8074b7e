"""The plan as actions that are due at a time; a newer plan replaces an older one from its start on.

Times are integer nanoseconds on one clock, which the caller reads.
"""

from dataclasses import dataclass

import numpy as np

MAX_PLANS = 64  # that are kept: more than one a model step for as long as a plan may be played


@dataclass(frozen=True)
class StampedPlan:
    """Actions (steps, dim) in physical units, the first one due at ``start``."""

    start: int
    actions: np.ndarray


class ActionBuffer:
    """Holds the plan being played and the ones that follow it.

    A plan is used for at most ``max_age`` nanoseconds from its start, however long it is: without a newer
    plan the robot must stop.
    """

    def __init__(self, period: int, max_age: int):
        if period <= 0 or max_age < period:
            raise ValueError(f"period {period} ns must be positive and max_age {max_age} ns not below it")
        self.period = period
        self.max_age = max_age
        self.plans: list[StampedPlan] = []  # in order of their start

    def put(self, start: int, actions: np.ndarray) -> None:
        """Take a plan (steps, dim); it replaces every plan that starts at the same time or later.

        Raises ValueError for an empty plan or numbers that are not finite.
        """
        actions = np.array(actions, np.float64)
        if actions.ndim != 2 or 0 in actions.shape:
            raise ValueError(f"a plan has shape (steps, dim), this one {actions.shape}")
        if not np.isfinite(actions).all():
            raise ValueError("the plan is not finite")
        # Actions beyond max_age are never played; a flood of plans must not fill the memory.
        actions = actions[: -(-self.max_age // self.period)].copy()
        self.plans = [plan for plan in self.plans if plan.start < start][-MAX_PLANS + 1 :]
        self.plans.append(StampedPlan(start, actions))

    def is_over(self, time: int, start: int, steps: int) -> bool:
        """Return whether no action of a plan of ``steps`` control steps from ``start`` is due any more."""
        steps = min(steps, -(-self.max_age // self.period))
        return start + steps * self.period <= time + self.period // 2

    def drop_before(self, time: int) -> None:
        """Drop the plans that a later one has replaced by ``time``."""
        while len(self.plans) > 1 and self.plans[1].start <= time:
            self.plans.pop(0)

    def clear(self) -> None:
        """Drop all plans."""
        self.plans = []

    def action_at(self, time: int) -> np.ndarray | None:
        """Return the action (dim,) due in the control step that begins at ``time``; None if there is none.

        The moment is rounded to the plan's nearest control step, so that a tick that comes a little early
        neither repeats nor skips an action. The newest plan that has started counts, also when it is used
        up: an older one was made from an older observation.
        """
        time += self.period // 2
        started = [plan for plan in self.plans if plan.start <= time]
        if not started:
            return None
        row = (time - started[-1].start) // self.period
        return started[-1].actions[row].copy() if row < len(started[-1].actions) else None
