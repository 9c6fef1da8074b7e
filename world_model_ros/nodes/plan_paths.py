"""Publishes the planned path of the tool or base, and those of some candidates, while somebody subscribes."""

import traceback

import numpy as np
from geometry_msgs.msg import Point, PoseStamped
from nav_msgs.msg import Path
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from world_model_ros.model.config import CheckpointSpec
from world_model_ros.nodes.messages import nanoseconds, set_stamp
from world_model_ros.nodes.polling import Newest
from world_model_ros.nodes.qos import FRESH, RELIABLE
from world_model_ros.planning.paths import AXES, ORIGIN, twist_path
from world_model_ros.planning.planner import RecedingHorizonPlanner
from world_model_ros.planning.timeline import ModelStep

POSE_AGE = 2_000_000_000  # ns, of a tool_pose that a path may begin at
WIDTH = 0.002  # m, of the candidates' lines
COLOUR = ColorRGBA(r=0.6, g=0.6, b=0.65, a=0.5)


class PlanPaths:
    """Topics ``plan/path`` and ``plan/candidates`` of a node whose actions are a twist; none for others.

    Where joints lead a tool depends on the robot's kinematics, which this package does not know. A twist is
    integrated: in a frame that moves with the robot (``moves``) from its origin, in a fixed one from
    ``tool_pose``, or from the origin where that is not known.
    """

    def __init__(self, node, spec: CheckpointSpec, moves: bool):
        self.node, self.spec, self.moves = node, spec, moves
        self.period = round(spec.period * 1e9)
        self.path = self.candidates = self.tool = None
        if spec.action.kind != "twist" or not set(spec.action.names) <= set(AXES):
            return
        self.path = node.publisher(Path, "plan/path", RELIABLE)
        self.candidates = node.publisher(MarkerArray, "plan/candidates", RELIABLE)
        if not moves:
            self.tool = Newest(node.polled(PoseStamped, "tool_pose", FRESH))

    def publish(self, step: ModelStep, actions: np.ndarray, planner: RecedingHorizonPlanner) -> None:
        """Publish the path of a plan (steps, dim), and of the planner's last candidates, to who subscribes.

        Both begin where the robot is now, with what it still does until the plan begins.
        """
        path = self.path is not None and self.path.get_subscription_count()
        candidates = self.candidates is not None and self.candidates.get_subscription_count()
        if not (path or candidates):
            return
        try:
            self._publish(step, actions, planner, bool(path), bool(candidates))
        except Exception as error:  # what is shown to people must not stop the robot
            if self.node.complaints.trouble("plan/path", str(error)):
                self.node.get_logger().error(f"no plan/path: {''.join(traceback.format_exception(error))}")

    def _publish(self, step, actions, planner, path: bool, candidates: bool) -> None:
        start, done = self.start(step)
        running, stamp = step.running[done:], step.stamp + done * self.period
        if path:
            self.path.publish(self.path_message(start, stamp, np.concatenate([running, actions])))
        if candidates:
            sampled = planner.sampled()
            before = np.broadcast_to(running, (len(sampled), *running.shape))
            poses = self.poses(start, np.concatenate([before, sampled], axis=1)) if len(sampled) else []
            self.candidates.publish(self.markers(stamp, poses))

    def start(self, step: ModelStep) -> tuple[np.ndarray, int]:
        """Return where the tool is, (7,), and how many control steps of ``step.running`` led there.

        Where that is not known, it is the origin, at the time of the step's frame.
        """
        message = None if self.tool is None else self.tool.read()
        if message is None:
            return ORIGIN, 0
        late, frame = nanoseconds(message.header.stamp) - step.stamp, message.header.frame_id
        place, facing = message.pose.position, message.pose.orientation
        pose = np.array([place.x, place.y, place.z, facing.x, facing.y, facing.z, facing.w])
        problem = ""
        if frame != self.spec.action.frame:
            problem = f"it is in frame {frame!r}, the actions are in {self.spec.action.frame!r}"
        elif not np.isfinite(pose).all() or not 0.99 < np.linalg.norm(pose[3:]) < 1.01:
            problem = "it is no pose: a number is not finite, or the quaternion is not of length 1"
        elif abs(late) > POSE_AGE:
            problem = f"its stamp is {abs(late) / 1e9:.1f} s away from the frame that was planned for"
        if problem:
            self.node.reject("tool_pose", f"{problem}; plan/path begins at the frame's origin")
            return ORIGIN, 0
        self.node.accept("tool_pose")
        return pose, min(max(0, round(late / self.period)), len(step.running))

    def poses(self, start: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return the poses (..., steps + 1, 7) that actions (..., steps, dim) lead through."""
        action = self.spec.action
        return twist_path(action.names, actions, self.spec.period, start, self.moves)

    def path_message(self, start: np.ndarray, stamp: int, actions: np.ndarray) -> Path:
        """Return the path of actions (steps, dim) that begin at ``stamp``."""
        message = Path()
        message.header.frame_id = self.spec.action.frame
        set_stamp(message.header.stamp, stamp)
        for index, values in enumerate(self.poses(start, actions).tolist()):
            pose = PoseStamped()
            pose.header.frame_id = self.spec.action.frame
            set_stamp(pose.header.stamp, stamp + index * self.period)
            place, facing = pose.pose.position, pose.pose.orientation
            place.x, place.y, place.z, facing.x, facing.y, facing.z, facing.w = values
            message.poses.append(pose)
        return message

    def markers(self, stamp: int, poses) -> MarkerArray:
        """Return one marker with the lines of all candidates (S, steps + 1, 7): a point for each block."""
        marker = Marker(ns="candidates", type=Marker.LINE_LIST, action=Marker.ADD, color=COLOUR)
        marker.header.frame_id = self.spec.action.frame
        set_stamp(marker.header.stamp, stamp)
        marker.pose.orientation.w = 1.0
        marker.scale.x = WIDTH
        for line in poses:
            corners = [Point(x=x, y=y, z=z) for x, y, z in line[:: self.spec.block, :3].tolist()]
            marker.points += [point for pair in zip(corners, corners[1:], strict=False) for point in pair]
        if not marker.points:
            marker.action = Marker.DELETEALL
        return MarkerArray(markers=[marker])
