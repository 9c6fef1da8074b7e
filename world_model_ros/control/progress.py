"""Whether the robot comes nearer to its goal at all."""

SECOND = 1_000_000_000
NEARER = 0.98  # of the best distance so far: less is no progress
PAUSE = 2 * SECOND  # between two steps: what lies between is not counted, as nobody tried


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

    def step(self, now: int, distance: float) -> str:
        """Take the distance at ``now``; return why planning should end, or ""."""
        if now - self._last > PAUSE:
            self._since += now - self._last
        self._last = now
        nearer = self._best is None or distance < NEARER * self._best or now < self._since
        if nearer or (self.reached is not None and distance <= self.reached):
            self._best = distance if self._best is None else min(distance, self._best)
            self._since = now
        if not self.timeout or now - self._since <= self.timeout * SECOND:
            return ""
        return (
            f"no progress towards the goal for {self.timeout:g} s: give another goal, or call "
            "planner/enable to try again"
        )
