"""Joint velocities as positions, for a position interface: in motion and at rest."""

from dataclasses import dataclass

import numpy as np

from world_model_ros.safety.limits import Limits

# Seconds at full speed that the plan's positions may be ahead of the measured ones: joints follow a position
# command a few control steps late, and led from where they are measured they would never come to full speed.
LEASH = 0.2
DRIFT = 0.05  # rad at most that a held joint may sink before the lower place is held


@dataclass(frozen=True)
class Poses:
    """Two points of a trajectory, each (dim,): the end of this control step, and a step later, at rest."""

    end: np.ndarray
    velocity: np.ndarray  # at ``end``
    last: np.ndarray


class PoseKeeper:
    """Turns one action after the other into poses, for control steps of ``period`` seconds.

    At rest the poses are what was measured when the rest began. A measured pose that is farther from them
    than a control step may lead (and than DRIFT) was not caused by a load: the joints were moved by hand, and
    are held where they are now. In motion the poses are at most LEASH seconds at full speed ahead.
    """

    def __init__(self, limits: Limits, period: float):
        self.limits, self.period = limits, period
        self.reset()

    def reset(self) -> None:
        """Drop the poses at which the joints were held, and to which a plan led them."""
        self._held: np.ndarray | None = None
        self._desired: np.ndarray | None = None

    def poses(self, action: np.ndarray, moving: bool, measured: np.ndarray | None) -> Poses | None:
        """Return the poses for one action (dim,), the joints being at ``measured`` (dim,).

        None where that is not known: then there is no pose that would not move the robot.
        """
        if measured is None:
            self.reset()
            return None
        if moving:
            start, self._held = self._led(measured), None
        else:
            start, self._desired = self._rest(measured), None
        # The poses are ahead of the measured positions, by which the action was limited: limit them, too.
        end = self.limits.inside(start + action * self.period, measured)
        last = self.limits.inside(end + action * self.period / 2, measured)
        if moving:
            self._desired = end
        passing = np.where(last == end, 0.0, action)  # a joint that has come to its limit stops there
        return Poses(end, passing, last)

    def _led(self, measured: np.ndarray) -> np.ndarray:
        """Return the pose that the plan has led to, at most LEASH ahead of the measured one.

        Otherwise a blocked arm would be sent further and further, and would jump when it comes free.
        """
        if self._desired is None:
            return measured
        return np.clip(self._desired, measured + LEASH * self.limits.low, measured + LEASH * self.limits.high)

    def _rest(self, measured: np.ndarray) -> np.ndarray:
        # What is measured moves a little under a load: holding that would let the arm sink.
        low = np.maximum(self.limits.low * self.period, -DRIFT)
        high = np.minimum(self.limits.high * self.period, DRIFT)
        held = self._held
        if held is None or ((held - measured < low) | (held - measured > high)).any():
            self._held = measured.copy()
        return self._held
