"""Actions as the messages that controllers take."""

import numpy as np
from geometry_msgs.msg import TwistStamped
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from world_model_ros.model.config import ActionSpec
from world_model_ros.nodes.running import set_stamp
from world_model_ros.safety.limits import Limits
from world_model_ros.safety.poses import PoseKeeper

KINDS = {"twist": TwistStamped, "velocities": Float64MultiArray, "joint_trajectory": JointTrajectory}


class Commands:
    """Makes the message of one control step of ``period`` seconds."""

    def __init__(self, action: ActionSpec, interface: str, period: float, limits: Limits, prefix: str = ""):
        self.action, self.interface, self.period = action, interface, period
        self.joint_names = [prefix + name for name in action.names]
        self.poses = PoseKeeper(limits, period)

    def forget(self) -> None:
        """Forget the pose that was held, and the one that a plan had led to."""
        self.poses.forget()

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
        poses = self.poses.poses(action, moving, positions)
        if poses is None:
            return None
        message = JointTrajectory(joint_names=self.joint_names)
        points = ((poses.end, poses.velocity, 1), (poses.last, np.zeros_like(action), 2))
        for place, velocity, steps in points:
            point = JointTrajectoryPoint(positions=place.tolist(), velocities=velocity.tolist())
            set_stamp(point.time_from_start, round(steps * self.period * 1e9))
            message.points.append(point)
        return message
