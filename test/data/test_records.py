"""Messages become records: each type of recorded actions, joints by name, and what is refused."""

from types import SimpleNamespace as Message

import numpy as np
import pytest
import yaml

from world_model_ros.data.bags import deserialized
from world_model_ros.data.records import make_record
from world_model_ros.data.robot import read_robot

ARM = {
    "period": 0.05,
    "block": 5,
    "cameras": {"front": {"topic": "/camera", "rate": 30}},
    "joints": {"names": ["a", "b"], "prefix": "left_", "fields": ["position", "velocity"]},
    "actions": {
        "names": ["a", "b"],
        "kind": "joint_velocity",
        "unit": "rad/s",
        "low": [-1, -1],
        "high": [1, 1],
    },
}
BASE = ARM["actions"] | {
    "names": ["angular_z", "linear_x"],
    "kind": "twist",
    "unit": "m/s, rad/s",
    "frame": "base_link",
}


@pytest.fixture
def robot(tmp_path):
    def function(type_=None, actions=None, **changes):
        path = tmp_path / "robot.yaml"
        actions = (actions or ARM["actions"]) | ({"source": {"type": type_}} if type_ else {})
        path.write_text(yaml.safe_dump(ARM | {"actions": actions} | changes))
        return read_robot(path)

    return function


def header(sec=5, nanosec=6, frame=""):
    return Message(stamp=Message(sec=sec, nanosec=nanosec), frame_id=frame)


def record(robot, kind, message, role="actions"):
    stream = next(s for s in robot.streams if s.role == role)
    return make_record(robot, stream, kind, message, 7)


def joint_state(names, position=(), velocity=()):
    return Message(
        header=header(), name=list(names), position=list(position), velocity=list(velocity), effort=[]
    )


def twist():
    return Message(linear=Message(x=0.5, y=0.0, z=0.0), angular=Message(x=0.0, y=0.0, z=-1.0))


def test_joints_are_taken_by_name_with_their_prefix(robot):
    message = joint_state(["x", "left_b", "left_a"], [9, 2, 1], [9, 4, 3])
    taken = record(robot(), "JointState", message, "joints")
    assert taken.content == {"a": (1, 3), "b": (2, 4)}
    assert (taken.stamp, taken.received) == (5_000_000_006, 7)
    others = record(robot(), "JointState", joint_state(["gripper"], [1]), "joints")
    assert (others.content, others.names) == ({}, ("gripper",))
    half = record(robot(), "JointState", joint_state(["left_b"], [2], [4]), "joints")
    assert half.content == {"b": (2, 4)}


def test_executed_actions_have_their_names_with_or_without_prefix(robot):
    for prefix in ("", "left_"):
        message = joint_state([f"{prefix}b", f"{prefix}a"], velocity=[2, 1])
        assert record(robot(), "JointState", message).content == {"a": (1,), "b": (2,)}
    positions = robot(actions=ARM["actions"] | {"kind": "joint_position", "unit": "rad"})
    message = joint_state(["a", "b"], [5, 6], [1, 2])
    assert record(positions, "JointState", message).content == {"a": (5,), "b": (6,)}
    executed = joint_state(["linear_x", "angular_z"], velocity=[0.5, -1])
    assert record(robot(actions=BASE), "JointState", executed).content == {
        "angular_z": (-1,),
        "linear_x": (0.5,),
    }


def test_a_twist_has_the_named_parts(robot):
    assert record(robot("Twist", BASE), "Twist", twist()).content == {"angular_z": (-1,), "linear_x": (0.5,)}
    assert record(robot("Twist", BASE), "Twist", twist()).stamp is None
    stamped = Message(header=header(frame="base_link"), twist=twist())
    taken = record(robot("TwistStamped", BASE), "TwistStamped", stamped)
    assert (taken.stamp, taken.content) == (5_000_000_006, {"angular_z": (-1,), "linear_x": (0.5,)})
    stamped.header.frame_id = "tool0"
    with pytest.raises(ValueError, match="its frame is 'tool0', the robot file says 'base_link'"):
        record(robot("TwistStamped", BASE), "TwistStamped", stamped)


def test_a_trajectory_counts_by_its_first_point_and_a_zero_stamp_means_now(robot):
    points = [Message(positions=[1, 2], velocities=[3, 4]), Message(positions=[5, 6], velocities=[0, 0])]
    message = Message(header=header(0, 0), joint_names=["left_b", "left_a"], points=points)
    taken = record(robot("JointTrajectory"), "JointTrajectory", message)
    assert (taken.stamp, taken.content) == (None, {"a": (4,), "b": (3,)})
    positions = robot("JointTrajectory", ARM["actions"] | {"kind": "joint_position", "unit": "rad"})
    assert record(positions, "JointTrajectory", message).content == {"a": (2,), "b": (1,)}
    points[0].velocities = []
    with pytest.raises(ValueError, match="it has 2 names and 0 numbers of velocities"):
        record(robot("JointTrajectory"), "JointTrajectory", message)
    message.points = []
    with pytest.raises(ValueError, match="it has no point"):
        record(robot("JointTrajectory"), "JointTrajectory", message)


def test_plain_numbers_are_in_the_order_of_the_names(robot):
    taken = record(robot("Float64MultiArray"), "Float64MultiArray", Message(data=[1.0, 2.0]))
    assert (taken.stamp, taken.content) == (None, {"a": (1,), "b": (2,)})
    with pytest.raises(ValueError, match="it has 3 numbers for 2 action names"):
        record(robot("Float64MultiArray"), "Float64MultiArray", Message(data=[1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (joint_state(["left_a", "left_a"], [1, 2], [1, 2]), "it has the joint left_a more than once"),
        (joint_state(["left_a", "left_b"], [1], [1, 2]), "it has 2 names and 1 numbers of position"),
        (joint_state(["left_a", "left_b"], [1, 2]), "it has 2 names and 0 numbers of velocity"),
        (joint_state(["left_a", "left_b"], [1, float("nan")], [1, 2]), "numbers that are not finite"),
    ],
)
def test_joint_states_that_cannot_be_used_are_refused(robot, message, reason):
    with pytest.raises(ValueError, match=reason):
        record(robot(), "JointState", message, "joints")


def test_numbers_of_other_joints_may_be_anything(robot):
    message = joint_state(["left_a", "left_b", "x"], [1, 2, float("nan")], [1, 2, 3])
    assert record(robot(), "JointState", message, "joints").content == {"a": (1, 1), "b": (2, 2)}


def test_frames_are_decoded_and_cut_to_the_declared_size(robot):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    message = Message(
        header=header(),
        width=30,
        height=20,
        encoding="rgb8",
        step=90,
        is_bigendian=0,
        data=pixels.tobytes(),
    )
    np.testing.assert_array_equal(record(robot(), "Image", message, "camera").content[""], pixels)
    small = robot(cameras={"front": {"topic": "/camera", "rate": 30, "size": 8}})
    assert record(small, "Image", message, "camera").content[""].shape == (8, 8, 3)
    with pytest.raises(ValueError, match="its type is PointCloud2, Image or CompressedImage is needed"):
        record(robot(), "PointCloud2", message, "camera")


def test_a_message_of_rclpy_gives_the_record_that_a_bag_gives(robot):
    messages = pytest.importorskip("sensor_msgs.msg")
    serialization = pytest.importorskip("rclpy.serialization")
    typesys = pytest.importorskip("rosbags.typesys")
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image = messages.Image(height=20, width=30, encoding="bgr8", step=90, data=pixels.tobytes())
    joints = messages.JointState(name=["left_a", "left_b"], position=[0.1, 0.2], velocity=[1 / 3, 2 / 3])
    for message, role in ((image, "camera"), (joints, "joints")):
        message.header.stamp.sec, message.header.stamp.nanosec = 12, 34
        kind = type(message).__name__
        data = serialization.serialize_message(message)
        one = record(robot(), kind, message, role)
        read = deserialized(store.deserialize_cdr, data, f"sensor_msgs/msg/{kind}")
        other = record(robot(), kind, read, role)
        assert one[:3] == other[:3]
        assert one.stamp == 12_000_000_034
        if role == "camera":
            assert one.content[""].tobytes() == other.content[""].tobytes() == pixels[..., ::-1].tobytes()
        else:
            assert one.content == other.content == {"a": (0.1, 1 / 3), "b": (0.2, 2 / 3)}
