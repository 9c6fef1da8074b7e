"""What a HOLD by monitor_node leads to: a person may override it, and one that returns is a fault."""

from collections import deque

SECOND = 1_000_000_000
REPEATED = 3  # holds within the window that are a fault


class AnomalyHolds:
    """HOLDs whose cause cannot change while the robot stands, or comes back whenever it moves.

    Times are integer nanoseconds on the clock that ages are counted on; the settings are in seconds.
    """

    def __init__(self, override_time: float = 5.0, window: float = 20.0):
        self.override_time, self.window = override_time, window
        self._until: int | None = None  # the end of an override
        self._began: deque[int] = deque(maxlen=REPEATED)  # of the holds that ended a motion

    def override(self, now: int) -> None:
        """Go on in spite of the hold, for a while: a person has looked."""
        self._until = now + round(self.override_time * SECOND)

    def overridden(self, now: int) -> bool:
        """Return whether the hold does not count now."""
        if self._until is not None and not 0 <= self._until - now <= self.override_time * SECOND:
            self._until = None  # over, or the clock was set back
        return self._until is not None

    def began(self, now: int) -> str:
        """Note a hold that ended a motion; return why this is a fault, or ""."""
        self._began.append(now)
        if len(self._began) < REPEATED or not 0 <= now - self._began[0] <= self.window * SECOND:
            return ""
        return (
            f"monitor_node held the robot {REPEATED} times within {self.window:g} s, each time after it had "
            "moved"
        )

    def forget(self) -> None:
        """Forget the holds so far, and end an override."""
        self._until = None
        self._began.clear()
