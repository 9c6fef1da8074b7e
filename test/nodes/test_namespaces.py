"""Two robots on one network, each in a namespace of its own."""

import pytest

from world_model_ros.nodes.parameters import PARAMETERS

pytestmark = [pytest.mark.ros, pytest.mark.fault]
NODES = ("encoder_node", "planner_node", "command_node", "monitor_node")
SHARED = {"/diagnostics", "/rosout", "/parameter_events", "/clock"}


class Robot:
    """Camera and joints of the robot in a namespace, and what its nodes answer."""

    def __init__(self, observer, namespace):
        from geometry_msgs.msg import TwistStamped
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import Bool, String
        from trajectory_msgs.msg import JointTrajectory

        self.node, self.namespace = observer.node, namespace
        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.camera = self.node.create_publisher(Image, f"{namespace}/camera/image_raw", 1)
        self.goals = self.node.create_publisher(Image, f"{namespace}/goal/image", latched)
        self.joints = self.node.create_publisher(JointState, f"{namespace}/joint_states", 1)
        self.stops = self.node.create_publisher(Bool, f"{namespace}/command/emergency_stop", latched)
        self.plans = observer.collect(JointTrajectory, f"{namespace}/plan")
        self.twists = observer.collect(TwistStamped, f"{namespace}/command/twist", 1000)
        self.status = observer.collect(String, f"{namespace}/status", latched)

    def picture(self, grey):
        """Return an image that is one grey but for a line."""
        from sensor_msgs.msg import Image

        message = Image(height=64, width=64, encoding="mono8", step=64, data=bytes([grey] * 4032 + [0] * 64))
        message.header.stamp = self.node.get_clock().now().to_msg()
        return message

    def drive_all(self):
        """Publish a frame and joint states."""
        from sensor_msgs.msg import JointState

        self.camera.publish(self.picture(100))
        self.joints.publish(JointState(name=["panda_joint1"], position=[0.0]))

    def state(self):
        """Return the last status, such as HOLD."""
        return self.status[-1].data.partition(":")[0] if self.status else ""


def endpoints(observer, namespace):
    """Return the topics and services of the nodes in a namespace."""
    node, topics = observer.node, set()
    for name in NODES:
        for ask in (
            node.get_publisher_names_and_types_by_node,
            node.get_subscriber_names_and_types_by_node,
            node.get_service_names_and_types_by_node,
        ):
            topics |= {topic for topic, _ in ask(name, namespace)}
    return topics


def test_fault_37_two_robots_in_two_namespaces_do_not_hear_each_other(processes, observer, checkpoint):
    from std_msgs.msg import Bool

    quick = {"checkpoint": checkpoint, "frozen_after": 0.0, "samples": 4, "elites": 2, "iterations": 1}
    # On a busy machine frames and plans come late; what is late is not what this is about.
    patient = {"image_timeout": 5.0, "joint_timeout": 5.0, "plan_timeout": 2.0, "lease": 5.0, "hold": False}

    def words(name):
        known = {p.name for p in PARAMETERS[name]}
        given = {key: value for key, value in (quick | patient).items() if key in known}
        return [word for key, value in given.items() for word in ("-p", f"{key}:={value}")]

    for namespace in ("/a", "/b"):
        for name in NODES:
            line = ("-m", "world_model_ros.nodes", name, "--ros-args", "-r", f"__ns:={namespace}")
            processes.start(*line, *words(name))
    a, b = Robot(observer, "/a"), Robot(observer, "/b")

    def drive_all():
        a.drive_all()
        b.drive_all()

    def all_there():
        there = observer.node.get_node_names_and_namespaces()
        return all(
            (name, namespace) in there and observer.node.count_publishers(f"{namespace}/plan")
            for name in NODES
            for namespace in ("/a", "/b")
        )

    observer.until(lambda: a.state() == b.state() == "READY", again=drive_all)
    # A command node is ready as soon as it has frames: the planners may still be loading.
    observer.until(all_there, again=drive_all)
    for namespace in ("/a", "/b"):
        some = {f"{namespace}/{name}" for name in ("plan", "command/twist", "command/reset", "surprise")}
        observer.until(
            lambda some=some, namespace=namespace: some <= endpoints(observer, namespace), again=drive_all
        )
        topics = endpoints(observer, namespace)
        assert all(topic.startswith(f"{namespace}/") for topic in topics - SHARED), topics

    a.goals.publish(a.picture(50))
    observer.until(lambda: len(a.plans) > 3 and len(a.twists) > 10, again=drive_all)
    a.stops.publish(Bool(data=True))
    observer.until(lambda: a.state() == "FAULT", again=drive_all)
    # Time enough for anything to get across: /b has done nothing of all this, and then does it.
    observer.until(lambda: len(a.twists) > 60, again=drive_all)
    assert not b.plans
    assert not b.twists
    # HOLD where a busy machine delays its frames.
    observer.until(lambda: b.state() == "READY", again=drive_all)
    b.goals.publish(b.picture(50))
    observer.until(lambda: b.state() == "RUNNING" and len(b.twists) > 10, again=drive_all)
    assert a.state() == "FAULT"
    assert not any(m.twist.linear.x or m.twist.linear.y for m in a.twists[-10:])
