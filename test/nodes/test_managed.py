"""What every managed node reports of itself, and what it makes of commands that come early."""

import sys
import threading
import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros
PATCHED = """
import sys, time
sys.argv = [NAME, "--ros-args", "-p", "checkpoint:=%s"]
from world_model_ros.nodes import environment
environment.prepare()
import importlib
from world_model_ros.nodes import running
module = importlib.import_module("world_model_ros.nodes." + NAME)
%s
running.run(module.make_node)
"""


def patched(processes, name, checkpoint, patch):
    """Start a node after running ``patch``, where its module is ``module``."""
    return processes.start("-c", f"NAME = {name!r}\n" + PATCHED % (checkpoint, patch))


def picture(value=None, stamp=1):
    from sensor_msgs.msg import Image

    rng = np.random.default_rng(stamp)
    pixels = rng.integers(0, 256, (48, 64, 3), np.uint8) if value is None else np.full((48, 64, 3), value)
    message = Image(height=48, width=64, encoding="rgb8", step=192, data=pixels.astype(np.uint8).tobytes())
    message.header.stamp.sec = stamp
    return message


class Heartbeats:
    """Health messages of a node, with when they came."""

    def __init__(self, observer, node):
        from diagnostic_msgs.msg import DiagnosticStatus

        self.messages, self.times = [], []
        observer.node.create_subscription(DiagnosticStatus, f"{node}/health", self.on_health, 100)

    def on_health(self, message):
        self.times.append(time.monotonic())
        self.messages.append({v.key: v.value for v in message.values} | {"message": message.message})

    def silence(self):
        """Return how long the node has been silent, in seconds; None before its first word."""
        return time.monotonic() - self.times[-1] if self.times else None


HANGS = """
count = []
real = module.EncoderNode.embed
def embed(self, pixels):
    count.append(1)
    if len(count) > 4:
        time.sleep(1000)
    return real(self, pixels)
module.EncoderNode.embed = embed
"""


@pytest.mark.fault
def test_fault_54_a_node_whose_work_hangs_stops_its_heartbeat_and_another_goes_on(
    processes, checkpoint, observer
):
    from sensor_msgs.msg import Image

    node = patched(processes, "encoder_node", checkpoint, HANGS)
    processes.node("monitor_node", config=False, checkpoint=checkpoint)
    encoder, monitor = Heartbeats(observer, "encoder_node"), Heartbeats(observer, "monitor_node")
    observer.until(lambda: len(encoder.times) > 20 and len(monitor.times) > 20)
    assert {m["state"] for m in encoder.messages} == {"active"}
    assert len({m["instance"] for m in encoder.messages}) == 1
    assert encoder.messages[0]["instance"] != monitor.messages[0]["instance"]
    camera = observer.node.create_publisher(Image, "camera/image_raw", 1)
    stamps = iter(range(1, 10**6))

    def shoot():
        message = picture(stamp=next(stamps))
        message.header.stamp = observer.node.get_clock().now().to_msg()
        camera.publish(message)

    observer.until(lambda: encoder.silence() > 2.0 and monitor.silence() < 0.5, again=shoot)
    assert node.poll() is None


def test_a_node_that_ends_on_purpose_says_so(processes, checkpoint, observer, ask):
    node = processes.node("monitor_node", config=False, checkpoint=checkpoint)
    beats = Heartbeats(observer, "monitor_node")
    observer.until(lambda: beats.messages)
    assert ask.change_state("monitor_node", "deactivate")
    observer.until(lambda: beats.messages[-1]["state"] == "inactive")
    node.terminate()
    observer.until(lambda: beats.messages[-1]["state"] == "ended")


class Bare:
    """Makes a ManagedNode without ROS below it: what it publishes and logs is kept."""

    def __new__(cls):
        from world_model_ros.nodes.managed import ManagedNode

        class Out:
            def __init__(self):
                self.messages = []

            def publish(self, message):
                reason = message.message
                time.sleep(0)  # lets another thread in
                self.messages.append(reason)

        class Logger:
            def __init__(self):
                self.lines = []

            def __getattr__(self, severity):
                return lambda text: self.lines.append((severity, text))

        class Node(ManagedNode):
            def __init__(self):
                self.active, self.instance = True, "x"
                self._health, self._health_lock, self._ended = None, threading.Lock(), False
                self._health_out, self.logger = Out(), Logger()

            def get_logger(self):
                return self.logger

            def get_fully_qualified_name(self):
                return "/node"

        return Node()


def test_what_is_published_last_is_what_was_said_last():
    from world_model_ros.safety.health import Health

    node, interval = Bare(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for round_ in range(300):
            barrier = threading.Barrier(2)

            def publish(who, barrier=barrier, round_=round_):
                barrier.wait()
                node.publish_health(Health.HOLD, f"{who} {round_}")

            threads = [threading.Thread(target=publish, args=(who,)) for who in "ab"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert node._health_out.messages[-1] == node._health[1]
    finally:
        sys.setswitchinterval(interval)


def test_a_fault_is_logged_as_an_error_a_hold_as_a_warning_each_once():
    from world_model_ros.safety.health import Health

    node = Bare()
    for health, reason in (
        (Health.FINE, ""),
        (Health.WARNING, "dark"),
        (Health.HOLD, "frozen"),
        (Health.HOLD, "frozen"),
        (Health.FAULT, "broken"),
        (Health.FINE, ""),
    ):
        node.publish_health(health, reason)
    assert node.logger.lines == [
        ("warning", "dark"),
        ("warning", "frozen"),
        ("error", "broken"),
        ("info", "what was reported last no longer holds"),
    ]
    assert node._health_out.messages == ["fine", "dark", "frozen", "broken", "fine"]


def activate_after(observer, ask, processes, checkpoint, name, publish):
    """Configure a node, publish, let it spin a while, and activate it."""
    processes.node(name, config=False, checkpoint=checkpoint, autostart="false")
    assert ask.change_state(name, "configure")
    beats = Heartbeats(observer, name)
    observer.until(lambda: beats.messages)
    publish()
    count = len(beats.messages)
    observer.until(lambda: len(beats.messages) > count + 5)  # its executor has seen what came
    assert beats.messages[-1]["state"] == "inactive"
    assert ask.change_state(name, "activate")


@pytest.mark.parametrize("durability", ["VOLATILE", "TRANSIENT_LOCAL"])
def test_a_goal_that_comes_before_activation_is_not_lost(processes, checkpoint, observer, ask, durability):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import Image

    goals = observer.collect(Image, "goal/latent")
    profile = QoSProfile(depth=1, durability=DurabilityPolicy[durability])
    out = observer.node.create_publisher(Image, "goal/image", profile)

    def publish():
        observer.until(lambda: out.get_subscription_count() > 0)
        for stamp in (5, 6):
            out.publish(picture(stamp=stamp))

    activate_after(observer, ask, processes, checkpoint, "encoder_node", publish)
    observer.until(lambda: goals and goals[-1].header.stamp.sec == 6)
    out.publish(picture(stamp=7))
    observer.until(lambda: goals[-1].header.stamp.sec == 7)
    assert [m.header.stamp.sec for m in goals] == [6, 7]


def test_a_goal_latent_that_comes_before_activation_is_planned_to(processes, checkpoint, observer, ask):
    from sensor_msgs.msg import Image
    from trajectory_msgs.msg import JointTrajectory

    plans = observer.collect(JointTrajectory, "plan")
    out = observer.node.create_publisher(Image, "goal/latent", 1)
    latents = observer.node.create_publisher(Image, "latent", 10)
    time_ = [1_000_000_000]

    def latent(value):
        message = Image(height=1, width=64, encoding="32FC1", step=256)
        message.data = np.full(64, value, np.float32).tobytes()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time_[0], 1_000_000_000)
        return message

    def publish():
        observer.until(lambda: out.get_subscription_count() > 0)
        out.publish(latent(1.0))

    def go_on():
        time_[0] += 250_000_000
        latents.publish(latent(0.1))

    activate_after(observer, ask, processes, checkpoint, "planner_node", publish)
    observer.until(lambda: plans, again=go_on)


UNKNOWN = """
from rclpy.node import Node
find = Node.get_publishers_info_by_topic
def unknown(self, *inputs, **named):
    endpoints = find(self, *inputs, **named)
    for info in endpoints:
        info.node_name, info.node_namespace = "_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_"
    return endpoints
Node.get_publishers_info_by_topic = unknown
"""


def test_a_name_that_discovery_does_not_know_reaches_nobody(processes, checkpoint, observer, ask):
    from sensor_msgs.msg import Image

    node = patched(processes, "encoder_node", checkpoint, UNKNOWN)
    observer.node.create_publisher(Image, "camera/image_raw", 1)
    observer.until(lambda: ask.diagnosed("encoder_node", "no image yet on /camera/image_raw from the camera"))
    assert "UNKNOWN" not in str(ask.reports) + node.log.read_text()


def test_endpoints_whose_node_is_not_known_are_left_out():
    from types import SimpleNamespace

    from world_model_ros.nodes.qos import full_names

    def endpoint(name, namespace="/"):
        return SimpleNamespace(node_name=name, node_namespace=namespace)

    unknown = endpoint("_NODE_NAME_UNKNOWN_", "_NODE_NAMESPACE_UNKNOWN_")
    assert full_names([unknown]) == []
    assert full_names([endpoint("_CREATED_BY_BARE_DDS_APP_")]) == []
    endpoints = [unknown, endpoint("b", "/left"), endpoint("a"), endpoint("a"), endpoint("_hidden")]
    assert full_names(endpoints) == ["/_hidden", "/a", "/left/b"]


@pytest.mark.parametrize("name", ["encoder_node", "planner_node", "command_node", "monitor_node"])
def test_simulated_time_without_a_clock_is_said_with_the_topics_name(
    processes, checkpoint, observer, ask, name
):
    from rosgraph_msgs.msg import Clock

    words = ("-m", "world_model_ros.nodes", name, "--ros-args", "-r", "/clock:=/robot/clock")
    given = ("-p", f"checkpoint:={checkpoint}", "-p", "use_sim_time:=true")
    node = processes.start(*words, *given)
    expected = "use_sim_time is true and nobody publishes /robot/clock"
    observer.until(lambda: ask.diagnosed(name, expected))
    assert ask.diagnosis(name)[0] == b"\x01"
    observer.until(lambda: expected in node.log.read_text())
    clock = observer.node.create_publisher(Clock, "/robot/clock", 1)
    message = Clock()

    def tick():
        message.clock.sec += 1
        clock.publish(message)

    observer.until(lambda: "use_sim_time" not in (ask.diagnosis(name)[1] or "use_sim_time"), again=tick)
    assert node.log.read_text().count(expected) == 1
