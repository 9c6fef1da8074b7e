"""Which camera frames are worth perceiving, by their stamps and by what is in them."""

import zlib
from dataclasses import dataclass

import numpy as np

SECOND = 1_000_000_000
DARK, BRIGHT = 4, 251  # of 255: no camera sees a whole picture so dark or so bright
_STRIDE = 7  # pixels that are looked at for that


@dataclass
class FrameRules:
    """What makes a frame unusable; times in seconds, zero switches a rule off."""

    max_age: float = 1.0  # of the stamp, on arrival
    ahead: float = 0.3  # how far a stamp may lie in the future
    frozen: float = 1.0  # of identical pictures under new stamps
    max_rate: float = 100.0  # frames a second that are looked at


class FrameGate:
    """Takes the fields of one camera's frames, in the order they arrive; times are integer nanoseconds.

    Receive times and stamps are of the same clock. ``counts`` has every frame by what became of it.
    """

    def __init__(self, rules: FrameRules | None = None):
        self.rules = rules or FrameRules()
        self.counts = dict.fromkeys(("used", "repeated", "late", "future", "frozen", "too_many"), 0)
        self.frozen = False  # whether the last frame was dropped because the camera is
        self.forget()

    def forget(self) -> None:
        """Start over: the clock was set back."""
        self._stamp: int | None = None
        self._received: int | None = None
        self._checksum: int | None = None
        self._since = 0  # stamp of the first of the identical pictures

    def judge(self, stamp: int, received: int, data) -> str:
        """Return why this frame is dropped, or "" when it is to be used.

        ``data`` is the picture as it came over the wire, anything with a buffer. ``received`` is zero
        while the clock has not begun (use_sim_time before the first /clock): then no age is judged.
        """
        if self._received is not None and (received < self._received or (received and not self._received)):
            self.forget()  # what was stamped before the clock began is no measure either
        rules, self.frozen = self.rules, False
        if self._stamp is not None and stamp <= self._stamp:
            return self._drop("repeated", "its stamp is not newer than the last frame's")
        if received and rules.ahead and stamp - received > rules.ahead * SECOND:
            return self._drop(
                "future",
                f"its stamp is {(stamp - received) / SECOND:.2f} s ahead of this node's clock: "
                "synchronise the clocks, or set use_sim_time alike everywhere",
            )
        if received and rules.max_age and received - stamp > rules.max_age * SECOND:
            return self._drop(
                "late",
                f"its stamp is {(received - stamp) / SECOND:.2f} s old on arrival: "
                "synchronise the clocks, or bring the camera nearer",
            )
        if rules.max_rate and self._stamp is not None and stamp - self._stamp < SECOND / rules.max_rate:
            return self._drop("too_many", "")
        self._stamp, self._received = stamp, received
        return self._judge_picture(stamp, data)

    def _judge_picture(self, stamp: int, data) -> str:
        if self.rules.frozen:
            checksum = zlib.crc32(data)
            if checksum != self._checksum:
                self._checksum, self._since = checksum, stamp
            elif stamp - self._since >= self.rules.frozen * SECOND:
                self.frozen = True
                return self._drop(
                    "frozen",
                    f"the camera is frozen: the same picture for {self.rules.frozen:g} s and more under new "
                    "stamps: restart the camera",
                )
        self.counts["used"] += 1
        return ""

    @staticmethod
    def look(pixels: np.ndarray) -> str:
        """Return a warning about a picture, uint8 (H, W, 3), that shows nothing, or ""."""
        seen = pixels[::_STRIDE, ::_STRIDE]
        if seen.max() <= DARK:
            return "the picture is black: is the lens covered, or the light off?"
        if seen.min() >= BRIGHT:
            return "the picture is white all over: lower the exposure"
        return ""

    def _drop(self, kind: str, reason: str) -> str:
        self.counts[kind] += 1
        return reason or kind
