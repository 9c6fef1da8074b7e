"""Images, latents, plans and commands as ROS messages, and stamps as integer nanoseconds."""

import array

import numpy as np
from geometry_msgs.msg import Twist, TwistStamped
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from world_model_ros.camera.images import ImageRejectedError, decode_compressed, decode_image
from world_model_ros.errors import NoPlanError
from world_model_ros.model.config import ActionSpec, CheckpointSpec
from world_model_ros.planning.timeline import ModelStep
from world_model_ros.safety.joints import integrate
from world_model_ros.safety.limits import Limits, PoseKeeper

# Name -> type of the messages that a stream of a robot file may have.
STREAMED = {
    kind.__name__: kind
    for kind in (CompressedImage, Float64MultiArray, Image, JointState, JointTrajectory, Twist, TwistStamped)
}


def nanoseconds(stamp) -> int:
    """Return a message's stamp as integer nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def set_stamp(stamp, time: int) -> None:
    """Write integer nanoseconds into a message's stamp."""
    stamp.sec, stamp.nanosec = divmod(time, 1_000_000_000)


def pixels_of(message: Image | CompressedImage) -> np.ndarray:
    """Return an image message's RGB pixels, uint8 (H, W, 3). Raises ImageRejectedError."""
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data, message.format)
    m = message
    return decode_image(m.width, m.height, m.encoding, m.step, bool(m.is_bigendian), m.data)


def latent_message(latent: np.ndarray, header) -> Image:
    """Return a latent (D,) as a message with the source image's header."""
    values = np.ascontiguousarray(latent, "<f4")
    message = Image(header=header, height=1, width=values.size, encoding="32FC1", step=values.nbytes)
    message.data = array.array("B", values.tobytes())
    return message


def latent_array(message: Image, dim: int) -> np.ndarray:
    """Return a message's latent, float32 (dim,). Raises ImageRejectedError."""
    if message.encoding != "32FC1" or (message.height, message.width) != (1, dim) or message.is_bigendian:
        raise ImageRejectedError(
            f"it is {message.width} x {message.height} {message.encoding!r}, this checkpoint's latents are "
            f"{dim} x 1 '32FC1': run encoder_node and planner_node with the same checkpoint"
        )
    if len(message.data) != 4 * dim:
        raise ImageRejectedError(f"it has {len(message.data)} bytes of data, {4 * dim} are needed")
    values = np.frombuffer(message.data, "<f4").copy()
    if not np.isfinite(values).all():
        raise ImageRejectedError("it holds numbers that are not finite")
    return values


def plan_message(
    step: ModelStep,
    actions: np.ndarray,
    joints: np.ndarray | None,
    spec: CheckpointSpec,
    joints_problem: str = "",
) -> JointTrajectory:
    """Return the plan, actions (steps, dim) in physical units, for the block after ``step``.

    Velocities are the actions. Where they are joint velocities, positions are integrated from the
    measured joints (dim,), None where those are not known, as ``joints_problem`` tells. Raises NoPlanError
    where that cannot be.
    """
    if not np.isfinite(actions).all():
        raise NoPlanError("the plan is not finite")
    positions = np.zeros((len(actions), 0))
    if spec.action.kind == "joint_velocity":
        if joints is None:
            raise NoPlanError(f"its positions cannot be integrated: {joints_problem or 'no joint_states'}")
        # From where the joints are now: what the frame does not show yet has been done.
        running = step.running[round(1e-9 * step.latency / spec.period) :]
        positions = integrate(joints, [*running, *actions], spec.period)[len(running) :]
    message = JointTrajectory(joint_names=list(spec.action.names))
    set_stamp(message.header.stamp, step.due)
    message.header.frame_id = spec.action.frame
    period = round(spec.period * 1e9)
    for i, velocities in enumerate(actions):
        point = JointTrajectoryPoint(velocities=velocities.tolist(), positions=positions[i].tolist())
        set_stamp(point.time_from_start, (i + 1) * period)
        message.points.append(point)
    return message


# command.interface -> message, and topic
KINDS = {
    "twist": (TwistStamped, "command/twist"),
    "twist_unstamped": (Twist, "command/twist"),
    "velocities": (Float64MultiArray, "command/velocities"),
    "joint_trajectory": (JointTrajectory, "command/joint_trajectory"),
}


def planned_actions(message: JointTrajectory, names: tuple[str, ...]) -> np.ndarray:
    """Return a plan's actions (rows, dim), one row at least. Raises ValueError where it is none of these."""
    rows = [point.velocities for point in message.points]
    if tuple(message.joint_names) != names:
        raise ValueError(f"it is of {', '.join(message.joint_names) or 'nothing'}, not of {', '.join(names)}")
    if not rows:
        raise ValueError("it is empty")
    if any(len(row) != len(names) for row in rows):
        raise ValueError(f"not every point has {len(names)} velocities")
    actions = np.array(rows, np.float64)
    if not np.isfinite(actions).all():
        raise ValueError("it holds numbers that are not finite")
    return actions


class Commands:
    """Makes the message of one control step of ``period`` seconds."""

    def __init__(self, action: ActionSpec, interface: str, period: float, limits: Limits, prefix: str = ""):
        self.action, self.interface, self.period = action, interface, period
        self.joint_names = [prefix + name for name in action.names]
        self.poses = PoseKeeper(limits, period)

    def reset(self) -> None:
        """Drop the pose that was held, and the one that a plan led to."""
        self.poses.reset()

    def message(self, now: int, action: np.ndarray, moving: bool, positions: np.ndarray | None):
        """Return the message for one action (dim,), at ``now`` (ns).

        positions (dim,) are the joints' measured ones. Without them there is none to hold on a position
        interface: None is returned.
        """
        if self.interface == "velocities":
            return Float64MultiArray(data=action.tolist())
        if self.action.kind == "twist":
            twist = Twist()
            for name, value in zip(self.action.names, action.tolist(), strict=True):
                part, axis = name.split("_")
                setattr(getattr(twist, part), axis, value)
            if self.interface == "twist_unstamped":
                return twist
            message = TwistStamped(twist=twist)
            set_stamp(message.header.stamp, now)
            message.header.frame_id = self.action.frame
            return message
        return self._trajectory(action, moving, positions)

    def _trajectory(self, action: np.ndarray, moving: bool, positions) -> JointTrajectory | None:
        """Two points: the end of this control step, and standing still a step later.

        So the controller stops the joints by itself when no further message comes. The stamp stays zero,
        which means now: a trajectory with an old stamp would be refused.
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
