"""What is read of joint states that come faster than they are needed."""

import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not here: make setup installs it, or source one")
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState

from world_model_ros.nodes.polling import NeverWakes, NewestJoints, polled_subscription
from world_model_ros.nodes.qos import JOINTS


class Subscription:
    """The part of rclpy's subscription that is used."""

    msg_type = JointState

    def __init__(self):
        self.handle, self.queue = self, []

    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None

    def take_message(self, kind, raw):
        assert (kind, raw) == (JointState, False)
        return self.queue.pop(0) if self.queue else None

    def publish(self, publisher, position, names=("a", "b")):
        gid = {"data": bytes([publisher] * 24)} if publisher else None
        message = JointState(name=list(names), position=[position] * len(names))
        self.queue.append((message, {"publisher_gid": gid}))


@pytest.fixture
def joints():
    return Subscription()


def positions(joints):
    return [message.position[0] for message, _ in NewestJoints(joints).read()]


def test_of_a_fast_publisher_only_the_newest_is_read(joints):
    for number in range(50):
        joints.publish(1, number)
    assert positions(joints) == [49.0]
    assert positions(joints) == []


def test_a_slow_publisher_is_not_lost_among_a_fast_ones_messages(joints):
    joints.publish(2, -1.0, ("gripper",))
    for number in range(50):
        joints.publish(1, number)
    assert positions(joints) == [-1.0, 49.0]


def test_one_publisher_may_send_its_joints_in_parts(joints):
    for number in range(3):
        joints.publish(1, number, ("a",))
        joints.publish(1, 10 + number, ("b",))
    assert positions(joints) == [2.0, 12.0]


def test_publishers_that_contradict_each_other_are_both_read_in_the_order_of_their_last_message(joints):
    for publisher in (1, 2, 2, 1):
        joints.publish(publisher, 0.5 * publisher)
    assert positions(joints) == [1.0, 0.5]


def test_where_publishers_cannot_be_told_apart_everything_is_read(joints):
    for number in range(4):
        joints.publish(0, number)
    assert positions(joints) == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.ros
def test_a_subscription_wakes_nobody_and_its_events_do(observer):
    group = NeverWakes()
    made = observer.node.create_subscription(
        JointState, "joint_states", lambda _: None, 1, callback_group=group
    )
    assert not observer.executor.can_execute(made)
    assert made.event_handlers
    assert all(map(observer.executor.can_execute, made.event_handlers))


def test_unread_messages_do_not_keep_the_executor_busy(domain):
    """An event of such a subscription would: it waits for the reader, which has something to read."""
    rclpy.init(domain_id=domain)
    try:
        node, other = rclpy.create_node("reader"), rclpy.create_node("writer")
        subscription = polled_subscription(node, JointState, "joint_states", JOINTS)
        writer = other.create_publisher(JointState, "joint_states", JOINTS)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        deadline = time.monotonic() + 30
        while not (taken := subscription.handle.take_message(JointState, False)):
            assert time.monotonic() < deadline, "the two sides never matched"
            writer.publish(JointState(name=["a"]))
            time.sleep(0.01)
        assert taken[0].name == ["a"]
        writer.publish(JointState(name=["b"]))
        busy, passed = time.process_time(), time.monotonic()
        executor.spin_once(timeout_sec=1.0)
        assert time.process_time() - busy < 0.5 * (time.monotonic() - passed)  # it was all of the time
        assert NewestJoints(subscription).read()[-1][0].name == ["b"]
    finally:
        rclpy.shutdown()
