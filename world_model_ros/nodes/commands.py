"""Actions as the messages that controllers take."""

import numpy as np
from geometry_msgs.msg import TwistStamped
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from world_model_ros.control.limits import Limits
from world_model_ros.model.config import ActionSpec
from world_model_ros.nodes.running import set_stamp

LEASH = 0.5  # seconds at full speed that the plan's positions may be ahead of the measured ones
KINDS = {"twist": TwistStamped, "velocities": Float64MultiArray, "joint_trajectory": JointTrajectory}


class Commands:
    """Makes the message of one control step of ``period`` seconds."""

    def __init__(self, action: ActionSpec, interface: str, period: float, limits: Limits):
        self.action, self.interface, self.period, self.limits = action, interface, period, limits
        self._held: np.ndarray | None = None  # positions (dim,) of the joints while they stand still
        self._desired: np.ndarray | None = None  # where the plan has led them

    def message(self, now: int, action: np.ndarray, moving: bool, positions: np.ndarray | None):
        """Return the message for one action (dim,), at ``now`` (ns).

        positions (dim,) are the joints' measured ones. Without them there is none to hold on a position
        interface: None is returned.
        """
        if self.interface == "velocities":
            return Float64MultiArray(data=action.tolist())
        if self.interface == "twist":
            message = TwistStamped()
            set_stamp(message.header.stamp, now)
            message.header.frame_id = self.action.frame
            for name, value in zip(self.action.names, action.tolist(), strict=True):
                part, axis = name.split("_")
                setattr(getattr(message.twist, part), axis, value)
            return message
        return self._trajectory(action, moving, positions)

    def _trajectory(self, action: np.ndarray, moving: bool, positions) -> JointTrajectory | None:
        """Two points: the end of this control step, and standing still a step later.

        So the controller stops the joints by itself when nothing more comes. The stamp stays zero, which
        means now: a trajectory that a slow clock has made old would be refused.
        """
        if moving:
            start = self._ahead_of(positions)
            self._held = None
        else:
            self._desired = None
            # What is measured moves a little under a load: holding that would let the arm sink.
            self._held = start = positions if self._held is None else self._held
        if start is None:
            return None
        # Where the plan has led the joints is ahead of where they are, which is all that the action's
        # own limits know of.
        measured = start if positions is None else positions
        end = self.limits.inside(start + action * self.period, measured)
        last = self.limits.inside(end + action * self.period / 2, measured)
        if moving:
            self._desired = end
        message = JointTrajectory(joint_names=list(self.action.names))
        passing = np.where(last == end, 0.0, action)  # a joint that has come to its limit stops there
        points = ((end, passing, 1), (last, np.zeros_like(action), 2))
        for place, velocity, steps in points:
            point = JointTrajectoryPoint(positions=place.tolist(), velocities=velocity.tolist())
            set_stamp(point.time_from_start, round(steps * self.period * 1e9))
            message.points.append(point)
        return message

    def _ahead_of(self, positions: np.ndarray | None) -> np.ndarray | None:
        """Return where the plan has led the joints, not far from where they are.

        A blocked arm would else be sent ever further, and leap when it comes free.
        """
        if self._desired is None or positions is None:
            return positions if self._desired is None else self._desired
        return np.clip(
            self._desired, positions + LEASH * self.limits.low, positions + LEASH * self.limits.high
        )
