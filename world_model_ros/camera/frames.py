"""Checks of camera frames, by their stamps and pixels, and the camera's health that follows from them.

A frozen camera is a HOLD in the health of encoder_node; while it is reported, command_node keeps the robot
still (safety/commander.py, ``_hold_reason``).
"""

import math
import zlib
from dataclasses import dataclass

import numpy as np

from world_model_ros.safety.health import Health

SECOND = 1_000_000_000
DARK, BRIGHT = 4, 251  # of 255: a picture that is darker, or brighter, everywhere shows nothing
UPTIME = 10 * 365 * 86400.0  # seconds: a stamp that is older counts from the start of a computer
APART = 10.0  # seconds: a stamp that is older comes from another clock
RECORDED = 3600.0  # seconds: a stamp that is older may come from a recording
BY_ARRIVAL = "set the parameter image_stamp of encoder_node to received"
SILENT = 1.0  # seconds without any frame that are a warning
UNUSABLE = 0.5  # seconds in which frames came and none could be used that are a warning
_STRIDE = 7  # every which pixel is compared with DARK and BRIGHT


@dataclass
class FrameRules:
    """When a frame is dropped; times in seconds, zero switches a rule off."""

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
        kinds = ("used", "repeated", "late", "future", "unstamped", "frozen", "rejected", "too_many")
        self.counts = dict.fromkeys(kinds, 0)
        self.kind = ""  # of the last frame's drop, as in ``counts``; empty where it was used
        self.reset()

    @property
    def frozen(self) -> bool:
        """Whether the last frame was dropped because the camera is frozen."""
        return self.kind == "frozen"

    def reset(self) -> None:
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
            self.reset()  # nor compare with what was stamped before the clock began
        rules, self.kind = self.rules, ""
        late = received and rules.max_age and received - stamp > rules.max_age * SECOND
        if not stamp and (late or self._stamp == 0):
            return self._drop(
                "unstamped",
                "its stamp is zero: the driver does not stamp its images, let it set header.stamp to the "
                f"time of the exposure, or {BY_ARRIVAL}",
            )
        if self._stamp is not None and stamp <= self._stamp:
            if late and stamp < self._stamp:
                return self._drop("repeated", _why_late(stamp, received))  # the camera's clock was set back
            reason = "its stamp is not newer than the last frame's: let the driver stamp each frame, or "
            return self._drop("repeated", reason + BY_ARRIVAL)
        if received and rules.ahead and stamp - received > rules.ahead * SECOND:
            return self._drop("future", _why_ahead(stamp, received))
        if late:
            return self._drop("late", _why_late(stamp, received))
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
                return self._drop(
                    "frozen",
                    f"the camera is frozen: the same picture for {self.rules.frozen:g} s and more under new "
                    "stamps: restart the camera",
                )
        self.counts["used"] += 1
        return ""

    def reject(self) -> None:
        """Note that the picture of the last frame, which was to be used, cannot be."""
        self.counts["used"] -= 1
        self.counts["rejected"] += 1

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
        self.kind = kind
        self.counts[kind] += 1
        return reason or kind


def _why_late(stamp: int, received: int) -> str:
    age = (received - stamp) / SECOND
    if age > UPTIME:
        return (
            f"its stamp is {stamp / SECOND:.2f} s, which counts from when the camera or its computer was "
            f"started: let the driver stamp with the time of day, or {BY_ARRIVAL}"
        )
    if age > RECORDED:
        return (
            f"its stamp is {_span(age)} old on arrival: if a bag is played, use `ros2 bag play --clock` and "
            "set use_sim_time to true in all nodes; otherwise synchronise the clocks of camera and this "
            f"computer, or {BY_ARRIVAL}"
        )
    if age > APART:
        return (
            f"its stamp is {age:.2f} s old on arrival: synchronise the clocks of camera and this computer, "
            f"or {BY_ARRIVAL}"
        )
    return (
        f"its stamp is {age:.2f} s old on arrival: synchronise the clocks, make the way from the camera "
        "quicker, or raise max_age"
    )


def _why_ahead(stamp: int, received: int) -> str:
    ahead = (stamp - received) / SECOND
    if ahead > UPTIME:
        return (
            f"its stamp is the time of day, this node's clock is at {received / SECOND:.2f} s: set "
            f"use_sim_time to false for a real camera, or to true in a simulated one, or {BY_ARRIVAL}"
        )
    return (
        f"its stamp is {_span(ahead)} ahead of this node's clock: synchronise the clocks, set use_sim_time "
        f"alike everywhere, or {BY_ARRIVAL}"
    )


def _span(seconds: float) -> str:
    """Return a time in seconds, hours or days, for people."""
    if seconds < RECORDED:
        return f"{seconds:.2f} s"
    return f"{seconds / 3600:.1f} hours" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


class CameraState:
    """The camera's health, and the cause of a trouble for as long as it lasts.

    Times are seconds of a steady clock; reasons are sentences without the topic's name.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Start over."""
        self._heard = self._used = -math.inf  # when the newest frame came, and the newest one of use
        self._refused_since: float | None = None
        self._frozen = False
        self._reason = self._kind = self._warning = ""

    def used(self, now: float, warning: str = "") -> None:
        """Note a frame that was used; ``warning`` is about what it shows."""
        self._heard = self._used = now
        self._refused_since, self._frozen = None, False
        self._reason = self._kind = ""
        self._warning = warning

    def refused(self, now: float, kind: str, reason: str, frozen: bool = False) -> None:
        """Note a frame that was not used; of one ``kind`` the first reason is kept."""
        self._heard = now
        if self._refused_since is None:
            self._refused_since = now
        self._frozen = frozen
        if kind != self._kind:
            self._kind, self._reason = kind, reason

    def unusable(self, now: float) -> bool:
        """Return whether frames come, and none of them could be used for UNUSABLE seconds."""
        return self._refused_since is not None and now - self._refused_since > UNUSABLE

    def verdict(self, now: float) -> tuple[Health, str]:
        """Return the camera's health now, and why."""
        if now - self._heard > SILENT:
            if self._heard == -math.inf:
                return Health.FINE, ""  # encoder_node names the missing publisher
            return Health.WARNING, f"no frame for more than {SILENT:g} s"
        if self._frozen:
            return Health.HOLD, self._reason
        if self.unusable(now):
            return Health.WARNING, f"no frame can be used: {self._reason}"
        return (Health.WARNING, self._warning) if self._warning else (Health.FINE, "")
