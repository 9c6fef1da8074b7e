"""When a camera with a clock of its own takes its frames, and whose /clock it is.

Pictures can be taken between two steps of the physics only, so a frame is taken at the nearest one and
stamped with that moment: what jitters is the capture, and the stamp tells the truth about it.
"""

import numpy as np

SECOND = 1_000_000_000


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
