"""robot-check on real publishers: what is right is said with figures, what is wrong with the remedy."""

import array
import signal
import time
from pathlib import Path

import pytest
import yaml

from test.observer import Observer

pytestmark = pytest.mark.ros
JOINTS = ["joint1", "joint2", "joint3"]
SECOND = 1_000_000_000
EARLIER = 1_000_000 * SECOND  # by which a simulated clock is behind


def describe(tmp_path, cameras, **changes):
    """Write a robot file with these cameras; return its path."""
    values = {
        "name": "arm",
        "period": 0.05,
        "block": 10,
        "cameras": cameras,
        "model_camera": next(iter(cameras)),
        "joints": {"names": list(JOINTS), "rate": 5, "topics": ["/joint_states"]},
        "actions": {
            "names": list(JOINTS),
            "kind": "joint_velocity",
            "unit": "rad/s",
            "low": [-0.5] * 3,
            "high": [0.5] * 3,
            "source": {"topic": "/teleop", "type": "Float64MultiArray"},
        },
        "command": {"interface": "velocities", "topic": "/arm/velocities"},
    }
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return str(path)


class System:
    """Publishers of a robot that is not there; ``drive`` is meant for Observer.until(again=...)."""

    def __init__(self, observer):
        self.node, self.sends, self.count = observer.node, [], 0

    def publish(self, kind, topic, make, qos=5, every=1):
        """Publish ``make()`` with each ``every``-th call of drive."""
        publisher = self.node.create_publisher(kind, topic, qos)
        self.sends.append((every, lambda: publisher.publish(make())))

    def drive(self):
        """Publish what is due: 20 times a second at most."""
        self.count += 1
        for every, send in self.sends:
            if self.count % every == 0:
                send()

    def stamp(self, message, late=0.0):
        """Stamp a message with now, or so many seconds ago."""
        now = time.time_ns() - round(late * SECOND)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, SECOND)
        return message

    def camera(self, topic, encoding="rgb8", late=0.0, stamped=True, still=False, every=1, qos=5):
        """Be a camera."""
        from sensor_msgs.msg import Image

        def frame():
            value = 100 if still else 50 + self.count % 100
            pixels = array.array("B", bytes([value]) * (64 * 48 * 3))
            made = Image(width=64, height=48, step=192, encoding=encoding, data=pixels)
            return self.stamp(made, late) if stamped else made

        self.publish(Image, topic, frame, qos, every)

    def joints(self, names, topic="/joint_states", **fields):
        """Be a robot's joints."""
        from sensor_msgs.msg import JointState

        values = {"position": [0.1] * len(names)} | fields
        self.publish(JointState, topic, lambda: self.stamp(JointState(name=names, **values)))

    def floats(self, topic, data):
        """Be a teleoperation, or a controller's other client."""
        from std_msgs.msg import Float64MultiArray

        self.publish(Float64MultiArray, topic, lambda: Float64MultiArray(data=data))


@pytest.fixture
def system(observer):
    return System(observer)


@pytest.fixture
def check(processes, observer, system):
    """Return a function that runs robot-check beside the system; it returns the exit code and the text."""

    def run(*words, seconds="2"):
        process = processes.start("-m", "world_model_ros", "robot-check", "--seconds", seconds, *words)
        observer.until(lambda: process.poll() is not None, again=system.drive)
        return process.returncode, process.log.read_text()

    return run


def streams(text):
    """Return {name of a stream: its lines} of what robot-check prints."""
    found = {}
    for line in text.splitlines():
        if line.startswith(("ok", "FAULT")):
            key = line[6:24].strip()
            found[key] = [line.split()[0]]
        elif line.startswith("      "):
            found[key].append(line.strip())
    return {name: " | ".join(lines) for name, lines in found.items()}


def test_a_robot_that_is_as_its_file_says(tmp_path, observer, system, check):
    from rclpy.qos import qos_profile_sensor_data
    from std_msgs.msg import Float64MultiArray

    system.camera("/camera/image_raw", qos=qos_profile_sensor_data)
    system.joints(JOINTS[:2])
    system.joints([*JOINTS[2:], "gripper"])
    system.floats("/teleop", [0.1, 0.0, -0.5])
    observer.collect(Float64MultiArray, "/arm/velocities")
    file = describe(tmp_path, {"front": {"topic": "/camera/image_raw", "rate": 5, "size": 48}})
    code, text = check("--robot", file)
    assert code == 0, text
    assert text.startswith(f"arm ({file}): listening for 2 s")
    assert text.endswith("all streams are as the robot file says\n")
    found = streams(text)
    assert set(found) == {"camera front", "joints", "actions", "joint names", "command"}
    for words in (
        "Image 64x48 rgb8, 9 KiB",
        "Hz (declared 5), jitter",
        "age",
        "best_effort, volatile",
        "from /observer",
    ):
        assert words in found["camera front"]
    assert "3 of 3 joints" in found["joints"]
    assert "found joint1, joint2, joint3" in found["joint names"]
    assert "to /observer (reliable, volatile)" in found["command"]


def test_two_nodes_that_send_actions_are_a_fault(tmp_path, observer, system, check):
    from std_msgs.msg import Float64MultiArray

    system.camera("/camera/image_raw")
    system.joints(JOINTS[:2])
    system.joints(JOINTS[2:])  # these may be shared
    system.floats("/teleop", [0.1, 0.0, -0.5])
    system.floats("/teleop", [0.0, 0.0, 0.0])
    observer.collect(Float64MultiArray, "/arm/velocities")
    code, text = check("--robot", describe(tmp_path, {"front": {"topic": "/camera/image_raw", "rate": 5}}))
    assert code == 1, text
    found = streams(text)
    assert "-> 2 nodes publish it at once (/observer, /observer): end all but one" in found["actions"]
    assert found["joints"].startswith("ok")
    assert text.splitlines()[-1].startswith("1 fault: ")


def test_relative_topics_are_in_the_namespace(tmp_path, observer, system, check):
    from std_msgs.msg import Float64MultiArray

    system.camera("/left/camera/image_raw")
    system.joints(JOINTS)
    system.floats("/teleop", [0.1, 0.0, -0.5])
    observer.collect(Float64MultiArray, "/arm/velocities")
    file = describe(tmp_path, {"front": {"topic": "camera/image_raw", "rate": 5, "size": 48}})
    code, text = check("--robot", file, "--namespace", "/left")
    assert code == 0, text
    code, text = check("--robot", file, "--namespace", "left arm")
    assert code == 2
    assert "--namespace is 'left arm': give a name of ROS" in text


@pytest.fixture
def controller(domain):
    """Return an Observer beside the test's own: one participant cannot have two types on a topic."""
    made = Observer(domain)
    yield made
    made.close()


def test_each_fault_is_named_with_what_to_do(tmp_path, controller, system, check):
    from geometry_msgs.msg import TwistStamped

    for name, options in {
        "good": {},
        "slow": {"every": 10},
        "clocks": {"late": 7.0},
        "unstamped": {"stamped": False},
        "hung": {"still": True},
        "depth": {"encoding": "16UC1"},
        "small": {},
    }.items():
        system.camera(f"/{name}", **options)
    system.joints(["joint1"], "/wrong_type")
    system.joints([f"left_{name}" for name in JOINTS])
    system.floats("/teleop", [0.1, 0.0, 2.0])
    system.floats("/arm/velocities", [0.0, 0.0, 0.0])  # another program commands the robot
    controller.collect(TwistStamped, "/arm/velocities")
    names = ("slow", "good", "clocks", "unstamped", "hung", "depth", "small", "wrong_type", "absent")
    cameras = {name: {"topic": f"/{name}", "rate": 5} for name in names}
    cameras["small"]["size"] = 128
    code, text = check("--robot", describe(tmp_path, cameras))
    assert code == 1, text
    found = streams(text)
    for name, words in {
        "camera slow": "5 are declared: set the driver's rate",
        "camera clocks": "stamps are 7.0 s old on arrival: synchronise the clocks",
        "camera unstamped": "have the stamp zero: let the driver stamp, or write `time: receive`",
        "camera hung": "pictures are the same: the camera hangs",
        "camera depth": "its encoding is '16UC1': this is a depth topic",
        "camera small": "frames have 48 pixels, 128 are to be stored: set cameras.small.size to 48",
        "camera wrong_type": "sensor_msgs/msg/JointState: Image or CompressedImage is needed",
        "camera absent": "nobody publishes it: start the camera, or correct cameras.absent.topic",
        "joints": "0 of 3 joints",
        "joint names": "missing joint1, joint2, joint3; the messages have "
        "left_joint1, left_joint2, left_joint3: set joints.prefix to 'left_'",
        "actions": "joint3 was 2, its limits are -0.5 to 0.5: slow the teleoperation down",
        "command": "/observer takes geometry_msgs/msg/TwistStamped, command_node sends "
        "std_msgs/msg/Float64MultiArray",
    }.items():
        assert words in found[name], f"{name}: {found[name]}"
    assert "a model step of 0.5 s needs 5 Hz of the model's camera" in found["camera slow"]
    assert "/observer publishes it too: stop it before command_node" in found["command"]
    assert found["camera good"].startswith("ok")
    assert text.count("      -> ") == int(text.splitlines()[-1].split()[0])


def test_simulated_time_is_that_of_the_clock(tmp_path, system, check):
    from rosgraph_msgs.msg import Clock

    file = describe(tmp_path, {"front": {"topic": "/camera/image_raw", "rate": 5}})
    code, text = check("--robot", file, "--use-sim-time", seconds="0.5")
    assert code == 1
    assert streams(text) == {
        "clock": "FAULT | -> nobody publishes it: start the simulation, or leave out --use-sim-time"
    }

    def clock():
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(time.time_ns() - EARLIER, SECOND)
        return message

    system.publish(Clock, "/clock", clock)
    system.camera("/camera/image_raw", late=EARLIER / SECOND, still=True)
    code, text = check("--robot", file, "--use-sim-time")
    camera = streams(text)["camera front"]
    assert camera.startswith("ok"), text
    assert "pictures are the same" in camera  # noted, as a simulated camera has no noise


def test_ctrl_c_ends_it_at_once(tmp_path, processes, observer):
    file = describe(tmp_path, {"front": {"topic": "/camera/image_raw", "rate": 20}})
    process = processes.start("-m", "world_model_ros", "robot-check", "--robot", file, "--seconds", "600")
    observer.until(lambda: "robot_check" in observer.node.get_node_names())
    process.send_signal(signal.SIGINT)
    observer.until(lambda: process.poll() is not None)
    assert process.returncode == 130
    assert process.log.read_text().splitlines()[1:] == ["interrupted"]


def test_a_robot_that_is_not_there_at_all(tmp_path, check):
    code, text = check(
        "--robot", describe(tmp_path, {"front": {"topic": "/camera/image_raw", "rate": 20}}), seconds="0.5"
    )
    assert code == 1
    found = streams(text)
    assert "nobody publishes it: start the robot's driver" in found["joints"]
    assert "no joint states came" in found["joint names"]
    assert "nobody publishes it: start the teleoperation" in found["actions"]
    assert "nobody subscribes: start the robot's controller" in found["command"]


def test_its_own_listening_to_recorded_commands_is_no_controller(tmp_path, system, check):
    cameras = {"front": {"topic": "/camera/image_raw", "rate": 5}}
    file = describe(tmp_path, cameras)
    values = yaml.safe_load(Path(file).read_text())
    values["actions"]["source"]["topic"] = values["command"]["topic"]
    system.floats("/arm/velocities", [0.1, 0.0, 0.2])
    code, text = check("--robot", describe(tmp_path, cameras, actions=values["actions"]), seconds="0.5")
    assert code == 1
    assert "nobody subscribes: start the robot's controller" in streams(text)["command"]
