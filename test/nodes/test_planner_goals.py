"""What planner_node plans towards, what it reports of itself, and the cameras it plans with."""

import json
import re
import shutil

import numpy as np
import pytest

from test.observer import said

pytestmark = pytest.mark.ros
MS = 1_000_000
BLOCK = 250 * MS


class Feed:
    """A camera's latents and goals, published; and what the planner makes of them."""

    def __init__(self, observer):
        from diagnostic_msgs.msg import DiagnosticStatus
        from rclpy.qos import DurabilityPolicy, QoSProfile
        from sensor_msgs.msg import Image
        from trajectory_msgs.msg import JointTrajectory

        self.observer = observer
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.latents = observer.node.create_publisher(Image, "latent", 50)
        self.goals = observer.node.create_publisher(Image, "goal/latent", latched)
        self.plans = observer.collect(JointTrajectory, "plan")
        self.health = observer.collect(DiagnosticStatus, "planner_node/health")
        self.time = 1000 * MS

    def message(self, value):
        from sensor_msgs.msg import Image

        message = Image(height=1, width=64, encoding="32FC1", step=256)
        message.data = np.full(64, value, np.float32).tobytes()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self.time, 1_000_000_000)
        return message

    def frame(self, interval=BLOCK):
        self.time += interval
        self.latents.publish(self.message(0.1))

    def goal(self, value=1.0):
        self.goals.publish(self.message(value))

    def ready(self):
        self.observer.until(
            lambda: self.latents.get_subscription_count() and self.goals.get_subscription_count()
        )

    def begin(self):
        self.ready()
        self.goal()
        self.observer.until(lambda: self.plans, again=self.frame)

    def report(self):
        return {v.key: v.value for v in self.health[-1].values} if self.health else {}

    def wait(self, count, again):
        """Do ``again`` this often, at the pace of a test."""
        tries = iter(range(count))
        self.observer.until(lambda: next(tries, None) is None, again=again)


@pytest.fixture
def feed(observer):
    return Feed(observer)


def test_health_says_whether_planning_is_enabled_and_whether_there_is_a_goal(
    processes, checkpoint, feed, observer
):
    from std_srvs.srv import SetBool

    def enable(value):
        answer = observer.call(SetBool, "planner/enable", SetBool.Request(data=value))
        assert answer.success
        return answer.message

    def reported(**values):
        observer.until(lambda: values.items() <= feed.report().items())

    processes.node("planner_node", config=False, checkpoint=checkpoint, enabled="false")
    reported(enabled="false", enable_calls="0", goal="false")
    assert enable(True).startswith("enabled: waiting for a goal")
    reported(enabled="true", enable_calls="1", goal="false")
    feed.ready()
    feed.goal()
    reported(enabled="true", enable_calls="1", goal="true")
    assert enable(True) == "planning"
    reported(enabled="true", enable_calls="2", goal="true")
    assert enable(False).startswith("not planning")
    reported(enabled="false", enable_calls="2", goal="true")


@pytest.mark.fault
def test_fault_58_the_same_goal_again_and_again_changes_nothing(processes, checkpoint, feed, observer, ask):
    processes.node("planner_node", config=False, checkpoint=checkpoint, progress_timeout=3.0)
    feed.begin()
    count = len(feed.plans)

    def again():
        feed.goal()
        feed.frame()
        feed.goal()

    # Nothing is discarded, and that no progress is made is noticed as ever.
    observer.until(lambda: "no progress" in said(feed.health), again=again)
    assert len(feed.plans) > count
    observer.until(lambda: "discarded" in ask.diagnosis("planner_node")[2])
    assert ask.diagnosis("planner_node")[2]["discarded"] == "0"
    count = len(feed.plans)
    observer.until(lambda: len(feed.plans) > count, again=again)  # after an end, it counts once more


def test_a_latched_goal_from_before_the_activation_is_taken(processes, checkpoint, feed, observer, ask):
    processes.node("planner_node", config=False, checkpoint=checkpoint, autostart="false")
    feed.goal()
    assert ask.change_state("planner_node", "configure")
    feed.ready()
    feed.wait(5, feed.frame)
    assert ask.change_state("planner_node", "activate")
    observer.until(lambda: feed.report().get("goal") == "true")
    observer.until(lambda: feed.plans, again=feed.frame)


def test_joint_names_may_have_a_prefix(processes, checkpoint, feed, observer, tmp_path):
    from sensor_msgs.msg import JointState

    folder = shutil.copytree(checkpoint, tmp_path / "arm")
    config = json.loads((folder / "config.json").read_text())
    config["action"] |= {"names": ["a", "b"], "kind": "joint_velocity", "unit": "rad/s", "frame": ""}
    (folder / "config.json").write_text(json.dumps(config))
    processes.node("planner_node", config=False, checkpoint=folder, joint_prefix="left_")
    joints = observer.node.create_publisher(JointState, "joint_states", 10)
    feed.ready()
    feed.goal()

    def again():
        joints.publish(JointState(name=["left_b", "right_a", "left_a"], position=[2.0, 7.0, 1.0]))
        feed.frame()

    observer.until(lambda: feed.plans, again=again)
    plan = feed.plans[-1]
    assert list(plan.joint_names) == ["a", "b"]  # the plan goes by the actions' names
    np.testing.assert_allclose(plan.points[0].positions, [1.0, 2.0], atol=0.2)


@pytest.mark.fault
@pytest.mark.parametrize(("milliseconds", "needed"), [(200, "10.0")])
def test_fault_57_a_camera_that_is_too_slow_is_refused_with_both_rates(
    processes, checkpoint, feed, observer, milliseconds, needed
):
    processes.node("planner_node", config=False, checkpoint=checkpoint)
    feed.begin()
    observer.until(
        lambda: feed.report().get("asks_for") == "hold", again=lambda: feed.frame(milliseconds * MS)
    )
    rate = re.search(
        r"the camera gives (.*) frames a second, at least (.*) are needed", feed.health[-1].message
    )
    assert rate[2] == needed
    # A busy planner may not have heard every frame.
    assert 400 / milliseconds < float(rate[1]) < 1050 / milliseconds
    feed.wait(3, lambda: feed.frame(milliseconds * MS))
    count = len(feed.plans)
    feed.wait(10, lambda: feed.frame(milliseconds * MS))
    assert len(feed.plans) == count
    observer.until(
        lambda: feed.report().get("asks_for") == "go_on" and len(feed.plans) > count,
        again=lambda: feed.frame(50 * MS),
    )


@pytest.mark.fault
def test_fault_57_plans_stay_on_the_control_steps_whatever_the_camera_does(
    processes, checkpoint, feed, observer
):
    from sensor_msgs.msg import JointState

    processes.node("planner_node", config=False, checkpoint=checkpoint)
    executed = observer.node.create_publisher(JointState, "command/executed", 50)
    feed.ready()
    observer.until(executed.get_subscription_count)
    feed.goal()
    rng = np.random.default_rng(0)
    ticks = iter(range(1000 * MS, 10**12, 50 * MS))
    tick = [next(ticks)]
    numbers = iter(range(10**6))

    def frame():  # 15 a second, 10 ms early or late
        feed.time = 1013 * MS + next(numbers) * 66_666_667 + int(rng.integers(-10, 11)) * MS
        while tick[0] < feed.time:
            message = JointState(name=["linear_x", "linear_y"], velocity=[0.1, 0.0])
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(tick[0], 1_000_000_000)
            executed.publish(message)
            tick[0] = next(ticks)
        feed.latents.publish(feed.message(0.1))

    def stamps():
        return [p.header.stamp.sec * 1_000_000_000 + p.header.stamp.nanosec for p in feed.plans]

    observer.until(stamps, again=frame)
    while len(feed.plans) <= 12:
        frame()
        # Not faster than a busy planner plans. A plan is for the model step after that of its frame.
        observer.spin_while(lambda: feed.time > stamps()[-1] + 80 * MS, 5.0)
    due = stamps()
    assert all(stamp % (50 * MS) == 0 for stamp in due)
    steps = np.diff(due[2:])
    assert (steps == BLOCK).all()


def test_a_goal_that_is_reached_is_said_once_and_the_robot_rests_until_another_one_comes(
    processes, checkpoint, feed, observer, tmp_path
):
    folder = shutil.copytree(checkpoint, tmp_path / "near")
    config = json.loads((folder / "config.json").read_text())
    config["thresholds"] |= {"goal_reached": 64 * 0.05**2}  # latents that differ by up to 0.05 in each number
    (folder / "config.json").write_text(json.dumps(config))
    node = processes.node("planner_node", config=False, checkpoint=folder, reached_steps=3)

    def rests():
        return feed.plans and not any(any(point.velocities) for point in feed.plans[-1].points)

    feed.begin()
    assert feed.report()["reached"] == "false"
    feed.goal(0.12)  # frames are 0.1
    observer.until(lambda: feed.report()["reached"] == "true", again=feed.frame)
    assert feed.report()["doing"] == "the goal is reached"
    assert feed.report()["arrival"] == "distance 0.03, threshold 0.16"
    observer.until(rests, again=feed.frame)
    count = len(feed.plans)
    observer.until(lambda: len(feed.plans) > count + 3, again=feed.frame)
    assert rests()
    feed.goal(0.12)  # the same one changes nothing
    count = len(feed.plans)
    observer.until(lambda: len(feed.plans) > count + 3, again=feed.frame)
    assert rests()
    feed.goal(2.0)
    observer.until(lambda: feed.report()["reached"] == "false", again=feed.frame)
    assert feed.report()["doing"] == "planning"
    assert node.log.read_text().count("the goal is reached: distance 0.03, threshold 0.16") == 1
