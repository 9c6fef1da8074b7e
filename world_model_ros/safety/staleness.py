"""Whether what was heard is still fresh, under a clock that the caller reads."""

from collections import deque

TOLERANCE = 1.25  # of the interval between frames: jitter makes no camera too slow


class Freshness:
    """One stream of messages; times are integer nanoseconds on one clock.

    After a silence it counts as fresh again only when ``needed`` messages have come: one that stutters
    is not back yet.
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
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
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
        # The middle one: frames that are lost now and then are no slow camera.
        middle = sorted(self._intervals)[self.COUNT // 2]
        off_grid = min(middle % self.step, -middle % self.step)
        if middle <= TOLERANCE * self.longest or off_grid <= self.step // 250:
            return ""
        return f"camera/image_raw is too slow: {1e9 / middle:.1f} Hz seen, {1e9 / self.longest:.0f} Hz needed"
