"""Commands are heard in every quality of service that a publisher may have, each time."""

import numpy as np
import pytest

pytestmark = pytest.mark.ros
QUALITIES = [
    (reliability, durability)
    for reliability in ("RELIABLE", "BEST_EFFORT")
    for durability in ("VOLATILE", "TRANSIENT_LOCAL")
]
NAMES = ["reliable", "reliable-latched", "best_effort", "best_effort-latched"]
every_quality = pytest.mark.parametrize(("reliability", "durability"), QUALITIES, ids=NAMES)


def profile(reliability, durability):
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    return QoSProfile(
        depth=1, reliability=ReliabilityPolicy[reliability], durability=DurabilityPolicy[durability]
    )


@every_quality
def test_what_the_graph_tells_of_a_subscriber_is_compared_as_the_middleware_does(
    observer, reliability, durability
):
    from std_msgs.msg import Bool

    from world_model_ros.nodes.qos import compatible

    observer.collect(Bool, "listened", profile(reliability, durability))
    observer.until(lambda: observer.node.get_subscriptions_info_by_topic("/listened"))
    (info,) = observer.node.get_subscriptions_info_by_topic("/listened")
    for ours in QUALITIES:
        reaches = (ours[0] == "RELIABLE" or reliability == "BEST_EFFORT") and (
            ours[1] == "TRANSIENT_LOCAL" or durability == "VOLATILE"
        )
        assert compatible(profile(*ours), info.qos_profile) is reaches


@pytest.mark.fault
@every_quality
def test_fault_42_a_stop_is_heard_in_every_quality_of_service(
    robot, observer, command, reliability, durability
):
    from std_msgs.msg import Bool

    robot.get_moving()
    stop = observer.node.create_publisher(Bool, "command/emergency_stop", profile(reliability, durability))
    observer.until(lambda: stop.get_subscription_count() > 0)

    def press():
        robot.drive()
        # What is sent best effort before the reader has discovered the writer is lost: a button is held.
        if reliability == "BEST_EFFORT" or not pressed:
            stop.publish(Bool(data=True))
            pressed.append(True)

    pressed = []
    observer.until(lambda: robot.state() == "FAULT", again=press)
    assert "QoS" not in command.log.read_text()
    assert "incompatible quality of service" not in command.log.read_text()


@pytest.mark.fault
def test_fault_41_every_stop_stops_whoever_sends_it_and_whatever_came_before(robot, observer, command, ask):
    from std_msgs.msg import Bool

    topic = "command/emergency_stop"
    same = observer.node.create_publisher(Bool, topic, 1)
    for sender in ("same", "same", "new", "new", "same"):
        robot.get_moving()
        stop = same if sender == "same" else observer.node.create_publisher(Bool, topic, 1)
        observer.until(lambda stop=stop: stop.get_subscription_count() > 1, again=robot.drive)
        stop.publish(Bool(data=True))
        observer.until(lambda: robot.state() == "FAULT", again=robot.drive)
        assert ask.trigger("command/reset").success
        observer.until(lambda: robot.state() != "FAULT", again=robot.drive)


@pytest.mark.fault
@every_quality
def test_fault_42_a_goal_is_heard_in_every_quality_of_service(
    processes, checkpoint, observer, reliability, durability
):
    from sensor_msgs.msg import Image

    goals = observer.collect(Image, "goal/latent", profile("RELIABLE", "VOLATILE"))
    node = processes.node("encoder_node", checkpoint=checkpoint)
    out = observer.node.create_publisher(Image, "goal/image", profile(reliability, durability))
    observer.until(lambda: out.get_subscription_count() > 0)
    observer.until(lambda: observer.node.count_publishers("goal/latent") > 0)
    for stamp in (1, 2):
        pixels = np.random.default_rng(stamp).integers(0, 256, (48, 64, 3), np.uint8)
        message = Image(height=48, width=64, encoding="rgb8", step=192, data=pixels.tobytes())
        message.header.stamp.sec = stamp
        observer.until(
            lambda stamp=stamp: goals and goals[-1].header.stamp.sec == stamp,
            again=lambda message=message: out.publish(message),
        )
    assert "incompatible quality of service" not in node.log.read_text()
