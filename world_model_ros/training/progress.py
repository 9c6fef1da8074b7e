"""How far work is: a bar on terminals, a line of stderr now and then elsewhere."""

import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

FIRST, EVERY = 5.0, 30.0  # seconds to the first line, and between two


class Progress:
    """Counts steps from ``done`` to ``total`` and prints them, their speed and the time that is left."""

    def __init__(self, title: str, total: int, done: int = 0, leave: bool = False):
        self.title, self.total, self.done = title, total, done
        self._bar = tqdm(desc=title, total=total, initial=done, unit="step", disable=None, leave=leave)
        self._first, self._begun = done, time.monotonic()
        self._due = self._begun + FIRST

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    @property
    def speed(self) -> str:
        """Steps per second so far, and the time that is left, in words."""
        rate = (self.done - self._first) / max(time.monotonic() - self._begun, 1e-9)
        if rate <= 0:
            return "0 steps/s"
        left = (self.total - self.done) / rate
        return f"{rate:.3g} steps/s, " + (f"{left:.0f} s left" if left < 100 else f"{left / 60:.0f} min left")

    def update(self, text: str = "") -> None:
        """Count a step; ``text`` says more, such as metrics."""
        self.done += 1
        self._bar.update()
        if text:
            self._bar.set_postfix_str(text)
        if self._bar.disable and time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY
            more = f"; {text}" if text else ""
            print(f"{self.title}: step {self.done} of {self.total}, {self.speed}{more}", file=sys.stderr)

    def write(self, text: str) -> None:
        """Print a line to stderr, above the bar."""
        self._bar.write(text, file=sys.stderr)


def counted(title: str, steps: int) -> Iterator[int]:
    """Yield 0 to ``steps`` - 1 and say how far it is."""
    with Progress(title, steps) as progress:
        for step in range(steps):
            yield step
            progress.update()
