"""Whether the node's clock goes as time does, and which clock the inputs' ages go by."""

SECOND = 1_000_000_000


class ClockWatch:
    """Two clocks, read together: the node's, and one that is steady; integer nanoseconds.

    ``limit`` is how far the node's clock may run away between two looks. None is for a simulated clock,
    which may stand, race and jump ahead as it likes: it may not be set back.
    """

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self._last: tuple[int, int] | None = None

    def look(self, now: int, steady: int) -> int:
        """Return by how much the node's clock was set since the last look; 0 where it was not."""
        last, self._last = self._last, (now, steady)
        if last is None:
            return 0
        passed = now - last[0]
        if self.limit is None:
            return min(0, passed)
        leap = passed - (steady - last[1])
        return leap if abs(leap) > self.limit else 0

    def age_clock(self, now: int, steady: int) -> int:
        """Return the time that ages are counted on: real time, unless it is simulated."""
        return now if self.limit is None else steady

    def forget(self) -> None:
        """Begin anew: nothing was looked at for a while."""
        self._last = None


def set_by(leap: int) -> str:
    """Return in words by how much a clock was set."""
    return f"{'back' if leap < 0 else 'forward'} by {abs(leap) / SECOND:.1f} s"
