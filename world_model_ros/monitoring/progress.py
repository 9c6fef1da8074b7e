"""Whether the robot comes nearer to its goal."""

import numpy as np

SECOND = 1_000_000_000
NEARER = 0.98  # of the best distance so far: less is no progress
PAUSE = 2 * SECOND  # between two steps: a longer time does not count, as nothing was planned


def nobody_tried(executed: np.ndarray | None, known: bool, heard: bool) -> bool:
    """Return whether the robot was kept still, or left to somebody else, in the block that has ended.

    executed (block, dim): what was sent in it, None for nothing. known: whether that is all of it. heard:
    whether command_node publishes what it sends, so that nothing heard means nothing sent.
    """
    return heard if executed is None else known and not np.any(executed)


class Progress:
    """Watches the distance to one goal; times are integer nanoseconds on one clock."""

    def __init__(self, timeout: float, reached: float | None = None):
        self.timeout = timeout  # seconds without progress; 0: for ever
        self.reached = reached  # a distance at which there is nothing left to do
        self.start()

    def start(self) -> None:
        """Begin with a new goal."""
        self._best: float | None = None
        self._since = self._last = 0

    def pause(self, now: int) -> str:
        """Do not count the time from the last step, or pause, to ``now``: the robot was kept still.

        Return why planning should end, if that was so before: planning that has ended does not begin again
        because the robot stands still.
        """
        self._since += max(0, now - self._last)
        self._last = now
        return self._ended(now)

    def step(self, now: int, distance: float) -> str:
        """Take the distance at ``now``; return why planning should end, or ""."""
        if now - self._last > PAUSE:
            self._since += now - self._last
        self._last = now
        nearer = self._best is None or distance < NEARER * self._best or now < self._since
        if nearer or (self.reached is not None and distance <= self.reached):
            self._best = distance if self._best is None else min(distance, self._best)
            self._since = now
        return self._ended(now)

    def _ended(self, now: int) -> str:
        if not self.timeout or now - self._since <= self.timeout * SECOND:
            return ""
        return (
            f"no progress towards the goal for {self.timeout:g} s: give another goal, or call "
            "planner/enable to try again"
        )
