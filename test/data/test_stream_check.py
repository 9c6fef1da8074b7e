"""robot-check's judgement of messages, without ROS."""

from types import SimpleNamespace as Message

import pytest
import yaml

from world_model_ros.data.robot import read_robot
from world_model_ros.data.stream_check import (
    Endpoint,
    StreamWatch,
    command_finding,
    guess_prefix,
    joint_names,
)

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
TWIST = "geometry_msgs/msg/Twist"
ARM = {
    "name": "arm",
    "period": 0.05,
    "block": 5,
    "cameras": {"front": {"topic": "/front", "rate": 30}},
    "joints": {"names": ["joint1", "joint2"], "topics": ["/a"], "rate": 100},
    "actions": {"names": ["joint1", "joint2"], "kind": "joint_velocity", "unit": "rad/s"},
    "command": {"interface": "velocities"},
}
ARM["actions"] |= {"low": [-1, -1], "high": [1, 1]}
BASE = ARM | {
    "actions": {"names": ["linear_x"], "kind": "twist", "unit": "m/s", "low": [-1], "high": [1]}
    | {"frame": "base", "source": {"topic": "/cmd", "type": "TwistStamped"}},
    "command": {"interface": "twist", "topic": "/base/cmd"},
}
EXECUTED = {"source": {"topic": "/teleop", "type": "JointState"}}


@pytest.fixture
def robot(tmp_path):
    def read(values=ARM):
        path = tmp_path / "arm.yaml"
        path.write_text(yaml.safe_dump(values))
        return read_robot(path)

    return read


def header(stamp, frame=""):
    sec, nanosec = divmod(stamp, SECOND)
    return Message(stamp=Message(sec=sec, nanosec=nanosec), frame_id=frame)


def joints(stamp, names=("joint1", "joint2"), **fields):
    values = {"position": [0.1] * len(names), "velocity": [], "effort": []} | fields
    return Message(header=header(stamp), name=list(names), **values)


def image(stamp, value=100, **fields):
    shape = {"width": 8, "height": 8, "encoding": "rgb8", "step": 24, "is_bigendian": 0}
    return Message(header=header(stamp), data=bytes([value]) * 192, **shape | fields)


def compressed(stamp, data, stated="jpeg"):
    return Message(header=header(stamp), data=data, format=stated)


def watch(robot, role, messages, kind="JointState", hz=100, simulated=False, late=0.002):
    """Return a watch after ``messages(stamp, i)``, 20 of them at ``hz``; or (message, publisher)."""
    stream = next(s for s in robot.streams if s.role == role)
    made = StreamWatch(robot, stream, simulated)
    for i in range(20):
        stamp = NOW + i * SECOND // hz
        message = messages(stamp, i)
        message, publisher = message if isinstance(message, tuple) else (message, "p")
        made.take(kind, message, stamp + round(late * SECOND), publisher)
    return made


def found(watched, kind="sensor_msgs/msg/JointState", end=None, elsewhere=(), nodes=("/driver",)):
    ends = watched._last if end is None else end
    publishers = [Endpoint(node, kind, "reliable, volatile", "pqt"[i]) for i, node in enumerate(nodes)]
    return watched.finding(publishers, ends, list(elsewhere))


def test_joints_that_are_right_have_figures_and_no_problem(robot):
    finding = found(watch(robot(), "joints", lambda stamp, i: joints(stamp)))
    assert finding.problems == finding.notes == []
    assert finding.facts == [
        *("2 of 2 joints", "100.0 Hz (declared 100), jitter 0.0 ms, largest gap 10 ms", "age 2 ms"),
        *("reliable, volatile", "from /driver"),
    ]


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        (lambda stamp, i: joints(stamp), {"hz": 50}, "it comes at 50.0 Hz, 100 are declared"),
        (lambda stamp, i: joints(stamp), {"late": 3.0}, "its stamps are 3.0 s old on arrival"),
        (
            lambda stamp, i: joints(stamp),
            {"late": -2.0},
            "its stamps are 2.0 s ahead of this computer's clock",
        ),
        (lambda stamp, i: joints(1 + stamp - NOW), {}, "count from the start of a computer"),
        (lambda stamp, i: joints(0), {}, "20 of 20 messages have the stamp zero"),
        (lambda stamp, i: joints(stamp, position=[0.1]), {}, "2 names and 1 numbers of position"),
        (lambda stamp, i: joints(stamp, position=[0.1, float("nan")]), {}, "(20 times): it holds numbers"),
        (
            lambda stamp, i: (joints(stamp), "pq"[i % 2]),
            {},
            "/driver and /other both send joint1: stop one of them",
        ),
        (
            lambda stamp, i: (joints(stamp), ("#1", "#2")[i % 2]),  # known by numbers only
            {},
            "two of /driver, /other send joint1: stop one of them",
        ),
    ],
)
def test_a_fault_of_joint_states_is_named(robot, messages, options, words):
    finding = found(watch(robot(), "joints", messages, **options), nodes=("/driver", "/other"))
    assert words in " | ".join(finding.problems)


def test_two_publishers_may_share_the_joints_each_at_its_rate(robot):
    shared = watch(robot(), "joints", lambda stamp, i: (joints(stamp, [f"joint{1 + i % 2}"]), "pq"[i % 2]))
    finding = found(shared, nodes=("/one", "/two"))
    assert finding.problems == [
        "it comes at 50.0 Hz, 100 are declared: " + finding.problems[0].split(": ")[1]
    ]
    assert "2 of 2 joints" in finding.facts


def test_joints_of_others_do_not_count(robot):
    finding = found(
        watch(robot(), "joints", lambda stamp, i: joints(stamp, ["joint1", "gripper"][i % 2 :][:1]))
    )
    assert "50.0 Hz" in " ".join(finding.facts)


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        (["left_joint1", "left_joint2"], "set joints.prefix to 'left_'"),
        (["a_joint1", "left_joint1", "left_joint2"], "set joints.prefix to 'left_'"),
        (
            ["joint_1", "joint_2"],
            "the nearest are joint_1 for joint1, joint_2 for joint2: correct joints.names",
        ),
        (["wheel"], "the messages have wheel: correct joints.names, or add the topic that has them"),
        (["joint1"], "missing joint2; the messages have joint1"),
    ],
)
def test_missing_joints_are_named_with_what_they_may_be_called(robot, heard, words):
    watched = watch(robot(), "joints", lambda stamp, i: joints(stamp, heard))
    (problem,) = joint_names(robot(), [watched]).problems
    assert words in problem


def test_a_prefix_that_the_messages_do_not_have(robot):
    values = ARM | {"joints": ARM["joints"] | {"prefix": "left_"}}
    watched = watch(robot(values), "joints", lambda stamp, i: joints(stamp))
    (problem,) = joint_names(robot(values), [watched]).problems
    assert problem.endswith("the messages have joint1, joint2: set joints.prefix to ''")


def test_joints_that_come_and_cannot_be_used_are_not_called_missing(robot):
    watched = watch(robot(), "joints", lambda stamp, i: joints(stamp, position=[0.1]))
    (problem,) = joint_names(robot(), [watched]).problems
    assert problem == "no value of joint1, joint2 can be used: see the fault of joints"


def test_of_several_prefixes_the_shortest_is_guessed():
    assert guess_prefix(["a", "b"], ["x_a", "x_b", "x_x_a", "x_x_b"]) == "x_"
    assert guess_prefix(["a", "b"], ["x_a", "y_b"]) is None


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        (lambda stamp, i: image(stamp, i), {"hz": 20}, "it comes at 20.0 Hz, 30 are declared"),
        (lambda stamp, i: image(stamp, i), {"hz": 5}, "needs 10 Hz of the model's camera"),
        (lambda stamp, i: image(stamp), {"hz": 15}, "all 20 pictures are the same: the camera hangs"),
        (lambda stamp, i: image(stamp, i % 3), {}, "the picture is black"),
        (lambda stamp, i: image(stamp, i, encoding="odd"), {}, "its encoding is 'odd'"),
        (lambda stamp, i: image(NOW, i), {}, "19 stamps are not newer than the one before"),
    ],
)
def test_a_fault_of_a_camera_is_named(robot, messages, options, words):
    finding = found(
        watch(robot(), "camera", messages, "Image", **{"hz": 30} | options), "sensor_msgs/msg/Image"
    )
    assert words in " | ".join(finding.problems)


def test_a_simulated_camera_may_show_the_same_for_long(robot):
    watched = watch(robot(), "camera", lambda stamp, i: image(stamp), "Image", hz=15, simulated=True)
    finding = found(watched, "sensor_msgs/msg/Image")
    assert finding.notes == ["all 20 pictures are the same"]


def test_a_camera_that_is_faster_than_declared_is_noted(robot):
    watched = watch(robot(), "camera", lambda stamp, i: image(stamp, 50 + i), "Image", hz=60)
    finding = found(watched, "sensor_msgs/msg/Image")
    assert (finding.problems, finding.notes) == (
        [],
        ["it comes faster than declared: set cameras.front.rate to 60"],
    )


def test_a_stream_that_stops_is_told_from_a_slow_one(robot):
    watched = watch(robot(), "camera", lambda stamp, i: image(stamp, 50 + i), "Image", hz=30)
    finding = found(watched, "sensor_msgs/msg/Image", end=watched._last + 3 * SECOND)
    assert finding.problems == ["it stopped 3.0 s before the end: see whether its driver still runs"]


def test_compressed_frames_have_their_size_too(robot):
    import cv2
    import numpy as np

    data = [cv2.imencode(".png", np.full((48, 64, 3), 50 + i, np.uint8))[1].tobytes() for i in range(20)]
    watched = watch(robot(), "camera", lambda stamp, i: compressed(stamp, data[i]), "CompressedImage", hz=30)
    finding = found(watched, "sensor_msgs/msg/CompressedImage")
    assert finding.problems == []
    assert finding.facts[0].startswith("CompressedImage 64x48, jpeg,")


@pytest.mark.parametrize(
    ("elsewhere", "words"),
    [
        ((), "nobody publishes it: start the camera, or correct cameras.front.topic"),
        (["/wrist"], "nobody publishes it; topics of this type are /wrist: start the camera"),
    ],
)
def test_a_stream_that_nobody_publishes(robot, elsewhere, words):
    finding = StreamWatch(robot(), robot().streams[0]).finding([], NOW, list(elsewhere))
    assert words in finding.problems[0]


def test_a_stream_that_is_published_and_silent(robot):
    finding = found(StreamWatch(robot(), robot().streams[0]), "sensor_msgs/msg/Image", end=NOW)
    assert (
        "no message came: see that its driver runs; if its frames have more than 512 KiB"
        in finding.problems[0]
    )


def test_executed_commands_may_be_missing_and_a_teleoperation_may_not(robot):
    (stream,) = (s for s in robot().streams if s.role == "actions")
    finding = StreamWatch(robot(), stream).finding([], NOW, [])
    assert (finding.problems, len(finding.notes)) == ([], 1)
    values = ARM | {"actions": ARM["actions"] | EXECUTED}
    (stream,) = (s for s in robot(values).streams if s.role == "actions")
    (problem,) = StreamWatch(robot(values), stream).finding([], NOW, []).problems
    assert problem.endswith("start the teleoperation, or correct actions.source.topic")


def test_teleoperation_of_another_type_frame_or_speed(robot):
    def twist(stamp, frame="base", x=0.5):
        linear, angular = Message(x=x, y=0.0, z=0.0), Message(x=0.0, y=0.0, z=0.0)
        return Message(header=header(stamp, frame), twist=Message(linear=linear, angular=angular))

    base, stamped = robot(BASE), "geometry_msgs/msg/TwistStamped"
    fine = found(watch(base, "actions", lambda stamp, i: twist(stamp), "TwistStamped"), stamped)
    assert fine.problems == []
    odd = found(watch(base, "actions", lambda stamp, i: twist(stamp, "map"), "TwistStamped"), stamped)
    assert "its frame is 'map', the robot file says 'base'" in odd.problems[0]
    fast = found(watch(base, "actions", lambda stamp, i: twist(stamp, x=-2.5), "TwistStamped"), stamped)
    assert "linear_x was -2.5, its limits are -1 to 1: slow" in fast.problems[0]
    stream = next(s for s in base.streams if s.role == "actions")
    other = StreamWatch(base, stream).finding([Endpoint("/joy", TWIST, "")], NOW, [])
    assert other.problems == [f"/joy publishes {TWIST}: set actions.source.type to Twist"]


def test_two_teleoperations_are_a_fault_where_both_send(robot):
    values = robot(ARM | {"actions": ARM["actions"] | EXECUTED})
    both = watch(values, "actions", lambda stamp, i: (joints(stamp, velocity=[0.1, 0.1]), "pq"[i % 2]))
    finding = found(both, nodes=("/operator", "/operator"))
    assert finding.problems == ["2 nodes publish it at once (/operator, /operator): end all but one"]
    one = watch(values, "actions", lambda stamp, i: (joints(stamp, velocity=[0.1, 0.1]), "p"))
    finding = found(one, nodes=("/operator", "/command_node"))
    assert finding.problems == []
    assert finding.notes == [
        "/command_node can publish it too and sent nothing: end it, or see that it stays silent"
    ]

    def sent_by(*publishers, nodes=("/operator", "/pad")):
        """Return problems and notes where these sent 20 messages, one after the other an equal share."""

        def message(stamp, i):
            return joints(stamp, velocity=[0.1, 0.1]), publishers[i * len(publishers) // 20]

        finding = found(watch(values, "actions", message), nodes=nodes)
        return finding.problems, finding.notes

    assert sent_by(*["#1", "#2"] * 10) == (
        ["2 nodes publish it at once (/operator, /pad): end all but one"],
        [],
    )
    three = sent_by(*["#1", "#2"] * 10, nodes=("/c", "/a", "/b"))
    assert three[0] == ["2 nodes publish it at once (of /a, /b, /c): end all but one"]
    told = "/operator, /pad can publish it: see that only one of them sends"
    assert sent_by("#1") == sent_by("#1", "#2") == sent_by("") == sent_by("p", "q") == ([], [told])
    # One that ended, after it was started again, is not blamed on those that are still there.
    silent = "/a, /b can publish it too and sent nothing: end it, or see that it stays silent"
    assert sent_by("r", "s", nodes=("/b", "/a")) == ([], [silent])
    other = sent_by(*"pr" * 10)
    assert other[0] == ["2 nodes publish it at once (/operator, another program): end all but one"]
    twice = [Endpoint("/operator", "j", "r"), Endpoint("/operator", "j", "r")]
    command = command_finding(values, "/cmd", "j", twice, [Endpoint("/arm", "j", "r")], [], True)
    assert "/operator, /operator publish it, the source of actions: stop them before" in command.notes[0]


def test_stamps_that_a_simulated_clock_makes_a_little_newer_have_no_age(robot):
    assert "age 0 ms" in found(watch(robot(), "joints", lambda stamp, i: joints(stamp), late=-0.008)).facts


@pytest.mark.parametrize(
    ("publishers", "subscribers", "deaf", "recorded", "words"),
    [
        ([], [], False, False, "nobody subscribes"),
        ([], [("/base", TWIST)], False, False, "/base takes geometry_msgs/msg/Twist, command_node sends "),
        ([], [("/base", TWIST)], False, False, "set command.interface to twist_unstamped"),
        ([], [("/base", "")], True, False, "/base subscribes r, command_node publishes reliable, volatile"),
        ([("/joy", "")], [("/base", "")], False, False, "/joy publishes it too: stop it"),
        ([("/joy", "")], [("/base", "")], False, True, ""),
        ([("/command_node", "")], [("/base", "")], False, False, ""),
        ([("/a/command_node", ""), ("/b/command_node", "")], [("/base", "")], False, False, "both command"),
    ],
)
def test_the_command_topic(robot, publishers, subscribers, deaf, recorded, words):
    ours = "geometry_msgs/msg/TwistStamped"
    publishers, subscribers = (
        [Endpoint(node, kind or ours, "r") for node, kind in side] for side in (publishers, subscribers)
    )
    unheard = subscribers if deaf else []
    finding = command_finding(robot(BASE), "/base/cmd", ours, publishers, subscribers, unheard, recorded)
    assert words in " | ".join(finding.problems)
    assert bool(finding.problems) == bool(words)
    assert bool(finding.notes) == recorded
    assert finding.lines()[0].startswith("FAULT" if words else "ok")
