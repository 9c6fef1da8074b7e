"""ROS messages as records. Those of rclpy and of bag readers have the same fields, and come through here."""

import math
from typing import NamedTuple

import numpy as np

from world_model_ros.camera.images import decode_compressed, decode_image
from world_model_ros.data.robot import RobotFile, Stream
from world_model_ros.model.frames import resize_frame

SECOND = 1_000_000_000
IMAGES = ("Image", "CompressedImage")


class Record(NamedTuple):
    """One message of a stream.

    content: of a camera {"": frame uint8 (H, W, 3)}; of joints the fields' values by joint, of actions the
    value by name, without prefix. It is empty for a message about other joints, whose ``names`` are kept.
    """

    stream: str
    stamp: int | None  # ns, of the header; 0 where nobody set it, None where such a message has none
    received: int  # ns
    content: dict
    names: tuple[str, ...] = ()


def types_of(robot: RobotFile, stream: Stream) -> tuple[str, ...]:
    """Return the message types that a stream may have, without their package."""
    return {"camera": IMAGES, "joints": ("JointState",), "actions": (robot.actions.source.type,)}[stream.role]


def make_record(robot: RobotFile, stream: Stream, kind: str, message, received: int) -> Record:
    """Return the record of a message of type ``kind`` (``Image`` ...), received at ``received`` ns.

    Raises ValueError, a phrase with the remedy, for a message that cannot be used.
    """
    if kind not in types_of(robot, stream):
        raise ValueError(f"its type is {kind}, {' or '.join(types_of(robot, stream))} is needed")
    stamp = _stamp(message)
    if stream.role == "camera":
        return Record(stream.name, stamp, received, {"": _frame(robot, stream, kind, message)})
    if kind == "JointTrajectory":
        stamp = stamp or None  # zero means now
    names: tuple[str, ...] = ()
    if stream.role == "joints":
        names = tuple(message.name)
        content = _by_name(robot.joints.names, robot.joints.prefix, names, message, robot.joints.fields)
    else:
        content, names = _actions(robot, kind, message)
    if not all(math.isfinite(value) for values in content.values() for value in values):
        raise ValueError("it holds numbers that are not finite")
    return Record(stream.name, stamp, received, content, names)


def _stamp(message) -> int | None:
    header = getattr(message, "header", None)
    return None if header is None else header.stamp.sec * SECOND + header.stamp.nanosec


def _frame(robot: RobotFile, stream: Stream, kind: str, message) -> np.ndarray:
    if kind == "CompressedImage":
        frame = decode_compressed(message.data)
    else:
        m = message
        frame = decode_image(m.width, m.height, m.encoding, m.step, bool(m.is_bigendian), m.data)
    size = next(camera.size for camera in robot.cameras if camera.name == stream.name)
    return frame if size is None else resize_frame(frame, size)


def _by_name(wanted, prefix: str, names: tuple[str, ...], message, fields) -> dict:
    """Return the values of the wanted joints, those that are in ``names`` with or without the prefix."""
    places = {name: i for i, name in enumerate(names)}
    if len(places) < len(names):
        raise ValueError(f"it has the joint {next(n for n in names if names.count(n) > 1)} more than once")
    found = {}
    for name in wanted:
        place = places.get(prefix + name)
        if place is not None:
            found[name] = place
    columns = [getattr(message, field) for field in fields] if found else []
    for field, values in zip(fields, columns, strict=False):
        if len(values) != len(names):
            raise ValueError(f"it has {len(names)} names and {len(values)} numbers of {field}")
    return {name: tuple(float(values[place]) for values in columns) for name, place in found.items()}


def _actions(robot: RobotFile, kind: str, message) -> tuple[dict, tuple[str, ...]]:
    actions = robot.actions
    field = "position" if actions.kind == "joint_position" else "velocity"
    if kind in ("Twist", "TwistStamped"):
        twist = message
        if kind == "TwistStamped":
            frame, twist = message.header.frame_id, message.twist
            if actions.frame and frame and frame != actions.frame:
                raise ValueError(
                    f"its frame is {frame!r}, the robot file says {actions.frame!r}: correct one"
                )
        parts = [name.split("_") for name in actions.names]
        values = [float(getattr(getattr(twist, part), axis)) for part, axis in parts]
        return {name: (value,) for name, value in zip(actions.names, values, strict=True)}, ()
    if kind == "Float64MultiArray":
        if len(message.data) != len(actions.names):
            raise ValueError(f"it has {len(message.data)} numbers for {len(actions.names)} action names")
        return {name: (float(v),) for name, v in zip(actions.names, message.data, strict=True)}, ()
    names = tuple(message.name if kind == "JointState" else message.joint_names)
    if kind == "JointTrajectory":
        if not message.points:
            raise ValueError("it has no point")
        message, field = message.points[0], {"velocity": "velocities", "position": "positions"}[field]
    # command/executed has the names of the actions, controllers and teleoperation those of the joints.
    prefix = robot.joints.prefix if robot.joints else ""
    prefix = prefix if any(prefix + name in names for name in actions.names) else ""
    return _by_name(actions.names, prefix, names, message, (field,)), names
