"""Watchdogs: messages that stopped, a camera that is too slow, a clock that was set."""

import math
from collections import deque

SECOND = 1_000_000_000
JITTER = 1.25  # of the longest interval between frames that is still accepted


class Freshness:
    """One stream of messages; times are integer nanoseconds on one clock.

    After a silence it counts as fresh again once ``needed`` messages have come.
    """

    def __init__(self, needed: int = 1):
        self.needed = needed
        self._newest: int | None = None
        self._missing = 0  # messages until it counts as fresh again

    @property
    def ever(self) -> bool:
        """Whether anything was heard."""
        return self._newest is not None

    def heard(self, moment: int) -> None:
        """Note a message; one that is no newer than the last does not count."""
        if self._newest is not None and moment <= self._newest:
            return
        self._newest = moment
        self._missing = max(0, self._missing - 1)

    def fresh(self, now: int, timeout: float) -> bool:
        """Return whether the newest message is at most ``timeout`` old, and the silence before it over."""
        if self._newest is None:
            return False
        if now - self._newest > timeout:
            self._missing = self.needed
            return False
        return self._missing == 0


class FrameRate:
    """The rate of a camera by its frames' stamps, against the one that is needed.

    ``step`` is the length of a model step and ``longest`` the longest interval that will do, both in ns.
    A camera whose frames come exactly a model step apart, as a simulated one may, shows all that is needed.
    """

    COUNT = 9  # intervals that are judged

    def __init__(self, step: int, longest: int):
        self.step, self.longest = step, longest
        self.reset()

    def reset(self) -> None:
        """Drop the intervals so far."""
        self._stamp: int | None = None
        self._intervals: deque[int] = deque(maxlen=self.COUNT)

    def heard(self, stamp: int) -> None:
        """Note a frame; one that is no newer than the last does not count."""
        if self._stamp is not None and stamp > self._stamp:
            self._intervals.append(stamp - self._stamp)
        if self._stamp is None or stamp != self._stamp:
            self._stamp = stamp

    def too_slow(self) -> str:
        """Return why the camera is too slow, with both rates, or ""."""
        if len(self._intervals) < self.COUNT:
            return ""
        # The median: a camera that loses a frame now and then is not slow.
        middle = sorted(self._intervals)[self.COUNT // 2]
        # Not by the median, which is there by chance now and then where the intervals only scatter about it.
        off_grid = sum(min(i % self.step, -i % self.step) > self.step // 250 for i in self._intervals)
        if middle <= JITTER * self.longest or off_grid <= 1:
            return ""
        return f"camera/image_raw is too slow: {1e9 / middle:.1f} Hz seen, {1e9 / self.longest:.0f} Hz needed"


class ClockWatch:
    """Notices that the node's clock was set, beside a steady one; both in integer nanoseconds.

    ``limit`` is how far the two may differ between two looks. None is for a simulated clock, which may stop
    and run fast, but not be set back, nor jump ahead by more than ``ahead``, as after a reset of the
    simulation.
    """

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self.ahead: float = math.inf  # ns
        self._last: tuple[int, int] | None = None

    def look(self, now: int, steady: int) -> int:
        """Return by how much the node's clock was set since the last look; 0 where it was not."""
        last, self._last = self._last, (now, steady)
        if last is None:
            return 0
        passed = now - last[0]
        if self.limit is None:
            return passed if not 0 <= passed <= self.ahead else 0
        leap = passed - (steady - last[1])
        return leap if abs(leap) > self.limit else 0

    def age_clock(self, now: int, steady: int) -> int:
        """Return the time that ages are counted on: real time, unless it is simulated."""
        return now if self.limit is None else steady

    def reset(self) -> None:
        """Start over: the clocks were not read for a while."""
        self._last = None


def set_by(leap: int) -> str:
    """Return in words by how much a clock was set."""
    return f"{'back' if leap < 0 else 'forward'} by {abs(leap) / SECOND:.1f} s"
