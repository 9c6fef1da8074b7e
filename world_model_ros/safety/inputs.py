"""What the command side hears: joints, camera frames and the health of the other nodes."""

import math

import numpy as np

from world_model_ros.safety.health import COMMAND, ENCODER, Health, Rivals, Sources
from world_model_ros.safety.joints import JointCollector
from world_model_ros.safety.watchdogs import SECOND, ClockWatch, FrameRate, Freshness

# Seconds of real time within which no frame is missed under a simulated clock: it may be on its way.
FRAME_TRANSIT = 0.25


class Inputs:
    """Keeps the newest inputs and returns, as sentences, which of them is missing or cannot be used.

    Times are integer nanoseconds. ``age`` is the time that ages are counted on and ``steady`` real time, both
    as ``look`` left them.
    """

    def __init__(self, collector: JointCollector, clock: ClockWatch):
        self.collector, self.clock = collector, clock
        self.sources, self.rivals = Sources(), Rivals()
        self.age = self.steady = 0

    def reset(self, fresh_frames: int, step: int, frame_interval: int) -> None:
        """Wait for all inputs again. The joints' positions are still known: a stop may be due.

        fresh_frames: how many end a HOLD for missing ones. step: of the model, in ns. frame_interval: the
        longest one between two frames, in ns.
        """
        self.collector.restart()
        self._frames = Freshness(fresh_frames)
        self._frame_rate = FrameRate(step, frame_interval)
        self._frame_at = 0  # when the newest frame came, in real time

    def look(self, now: int, steady: int) -> int:
        """Read both clocks; return by how much the node's one was set since the last look, or 0."""
        leap = self.clock.look(now, steady)
        self.age, self.steady = self.clock.age_clock(now, steady), steady
        return leap

    @property
    def simulated(self) -> bool:
        """Whether the node's clock is a simulated one."""
        return self.clock.limit is None

    def joints(self, names=(), positions=(), publisher=None) -> str:
        """Take joint states; return why they, or a part of them, are not used, or ""."""
        return self.collector.add(self.age, self.steady, names, positions, publisher)

    def frame(self, stamp: int, ahead: int) -> None:
        """Note that a camera frame was perceived, whose stamp is ``ahead`` ns of the node's clock."""
        self._frames.heard(self.age + ahead)
        self._frame_rate.heard(stamp)
        self._frame_at = self.steady

    def report(self, name: str, steady: int, health: Health, reason: str, state: str, values: dict) -> None:
        """Take a node's health message; one of COMMAND comes from another process that commands."""
        if name != COMMAND:
            self.sources.report(name, steady / SECOND, health, reason, state, values)
        elif state == "active":
            self.rivals.report(steady / SECOND)

    def positions(self, steady: int, timeout: float) -> np.ndarray | None:
        """Return the measured positions (dim,) of the joints; None where they are not known.

        steady: the time to count from. timeout: for how many seconds a measured position may be used.
        """
        if self.collector.suspect(self.age):
            return None
        return self.collector.positions(steady, round(SECOND * timeout))

    # What is wrong with them.

    def rival(self) -> str:
        """Return which other process commands this robot, or ""."""
        if self.rivals.elsewhere:
            return f"{self.rivals.elsewhere} commands this robot too: stop one of them"
        if self.rivals.present(self.steady / SECOND):
            return "another command_node commands this robot: stop one of them"
        return ""

    def missing(self) -> str:
        """Return which input has never come, or ""."""
        if not self.collector.complete:
            return self.collector.missing()
        if not self._frames.ever:
            why = self.sources.trouble(ENCODER) or self.sources.values(ENCODER).get("no_image", "")
            return "no camera/image_raw encoded yet (nothing on latent)" + (f": {why}" if why else "")
        unconfirmed = self.sources.unconfirmed()
        return f"{unconfirmed} has not reported since the reset" if unconfirmed else ""

    def joints_problem(self, timeout: float) -> str:
        """Return why the joint states cannot be used now, or ""; ``timeout`` in seconds."""
        suspect = self.collector.suspect(self.age)
        if suspect:
            return f"{suspect}: standing still"
        stale = self.collector.stale(self.age, round(SECOND * timeout))
        if not stale:
            return ""
        which = f" ({', '.join(stale)})" if self.collector.names else ""
        if self.collector.problem:
            return f"joint_states{which} cannot be used: {self.collector.problem}"
        return f"joint_states stopped{which}: standing still until they are back"

    def camera_problem(self, timeout: float, fresh_frames: int) -> str:
        """Return why the camera's frames cannot be used now, or ""; ``timeout`` in seconds."""
        self._frames.needed = fresh_frames
        in_transit = self.simulated and self.steady - self._frame_at < FRAME_TRANSIT * SECOND
        if self._frames.fresh(self.age, math.inf if in_transit else round(SECOND * timeout)):
            return self._frame_rate.too_slow()
        if self.steady - self._frame_at < SECOND and (slow := self._frame_rate.too_slow()):
            return slow  # frames still come: that they are too few is the cause
        trouble = self.sources.trouble(ENCODER)
        return f"camera/image_raw stopped (nothing on latent): {trouble or 'standing still'}"
