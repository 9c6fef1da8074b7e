"""Whether what was heard is still fresh, under a clock that the caller reads."""


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
