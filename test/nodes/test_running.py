"""How a node's callbacks are served."""

import itertools
import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not here: make setup installs it, or source one")
import rclpy
from std_msgs.msg import String

from world_model_ros.nodes.running import FairExecutor


def test_the_last_subscription_is_served_too_whatever_the_timeouts_and_however_busy_the_first_is(domain):
    rclpy.init(domain_id=domain)
    try:
        node, other = rclpy.create_node("reader"), rclpy.create_node("writer")
        heard = {"first": 0, "last": 0}

        def listen(topic):
            def count(_):
                heard[topic] += 1

            node.create_subscription(String, topic, count, 100)
            return other.create_publisher(String, topic, 100)

        writers = [listen(topic) for topic in heard]
        executor = FairExecutor()
        executor.add_node(node)
        until(lambda: all(writer.get_subscription_count() == 1 for writer in writers))

        def messages():
            for writer in writers:
                writer.publish(String())
            executor.spin_once(timeout_sec=next(timeouts))

        timeouts = (0.05 - 0.0001 * i for i in itertools.count())  # as of a loop that ends at a given time
        for _ in range(40):
            messages()
        assert heard["last"] >= 10  # half of what was served, or nearly
    finally:
        rclpy.shutdown()


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
