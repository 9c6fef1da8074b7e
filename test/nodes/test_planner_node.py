"""The planner: goals, enabling, diagnostics; latents it cannot use."""

import json
import re
import shutil

import numpy as np
import pytest

from test.observer import said

pytestmark = pytest.mark.ros
DIM = 64
BLOCK = 250_000_000


def latent(time, value=0.0, dim=DIM):
    from sensor_msgs.msg import Image

    data = np.full(dim, value, np.float32).tobytes()
    message = Image(height=1, width=dim, encoding="32FC1", step=4 * dim, data=data)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(time, 1_000_000_000)
    return message


@pytest.fixture
def planner(processes, observer, checkpoint):
    words = ("-m", "world_model_ros.nodes", "planner_node", "--ros-args", "-p", f"checkpoint:={checkpoint}")
    return processes.start(*words)


class Feed:
    def __init__(self, observer):
        from sensor_msgs.msg import Image

        self.latents = observer.node.create_publisher(Image, "latent", 10)
        self.goals = observer.node.create_publisher(Image, "goal/latent", 10)
        self.time = 1_000_000_000

    def next(self):
        self.time += BLOCK
        self.latents.publish(latent(self.time, 0.1))


def test_plans_for_the_block_after_the_latent_once_there_is_a_goal(planner, observer):
    from diagnostic_msgs.msg import DiagnosticArray
    from std_msgs.msg import Float32
    from std_srvs.srv import SetBool
    from trajectory_msgs.msg import JointTrajectory

    plans = observer.collect(JointTrajectory, "plan")
    distances = observer.collect(Float32, "goal/distance")
    reports = observer.collect(DiagnosticArray, "/diagnostics")
    feed = Feed(observer)
    observer.until(lambda: feed.latents.get_subscription_count() and feed.goals.get_subscription_count())
    observer.repeat(feed.next, 5)
    # The goal must not overtake latents on the way: between two reports the node takes what has come.
    count = len(reports)
    observer.until(lambda: len(reports) > count + 1)
    assert not plans
    before = feed.time
    feed.goals.publish(latent(1, 1.0))
    observer.until(lambda: plans, again=feed.next)

    def due():
        return [p.header.stamp.sec * 1_000_000_000 + p.header.stamp.nanosec for p in plans]

    assert all(stamp % BLOCK == 0 for stamp in due())
    assert due()[0] >= before + BLOCK  # nothing was planned for the latents before the goal
    observer.until(lambda: distances)
    assert distances[0].data == pytest.approx(DIM * 0.9**2, rel=1e-4)

    def values():
        return {v.key: v.value for r in reports for s in r.status for v in s.values}

    observer.until(lambda: "planning_ms_p50" in values())
    assert float(values()["planning_ms_p50"]) > 0

    assert observer.call(SetBool, "planner/enable", SetBool.Request(data=False)).success
    sent = feed.time
    observer.repeat(feed.next, 10)
    assert max(due()) <= sent + BLOCK  # none is of a later latent
    assert observer.call(SetBool, "planner/enable", SetBool.Request(data=True)).success
    observer.until(lambda: max(due()) > sent + BLOCK, again=feed.next)


def test_latents_of_another_model_are_rejected_with_the_remedy(planner, observer):
    from trajectory_msgs.msg import JointTrajectory

    plans = observer.collect(JointTrajectory, "plan")
    feed = Feed(observer)
    observer.until(lambda: feed.latents.get_subscription_count() and feed.goals.get_subscription_count())
    feed.goals.publish(latent(1, 1.0, dim=32))
    observer.until(lambda: "the same checkpoint" in planner.log.read_text(), again=feed.next)
    feed.goals.publish(latent(1, float("nan")))
    observer.until(lambda: "not finite" in planner.log.read_text(), again=feed.next)
    assert plans == []
    feed.goals.publish(latent(2, 1.0))
    observer.until(lambda: plans, again=feed.next)


def test_a_latency_of_the_camera_makes_a_latent_older_and_is_refused_where_it_is_none(planner, observer, ask):
    from std_msgs.msg import Float32
    from trajectory_msgs.msg import JointTrajectory

    from world_model_ros.nodes.qos import LATCHED

    plans = observer.collect(JointTrajectory, "plan")
    feed = Feed(observer)
    latencies = observer.node.create_publisher(Float32, "camera/latency", LATCHED)
    observer.until(lambda: feed.latents.get_subscription_count() and feed.goals.get_subscription_count())
    feed.goals.publish(latent(1, 1.0))
    observer.until(lambda: plans, again=feed.next)
    for value, words in ((float("nan"), "nan s"), (0.25, "0.25 s"), (-0.05, "-0.05 s")):
        latencies.publish(Float32(data=value))
        observer.until(lambda: f"{words} is no part of a model step" in planner.log.read_text())  # noqa: B023

    def latency():
        return float(ask.diagnosis("planner_node")[2].get("camera_latency", -1.0))

    observer.until(lambda: latency() == 0.0, again=feed.next)
    latencies.publish(Float32(data=0.1))
    observer.until(lambda: latency() == 0.1, again=feed.next)
    # The grid stays, and so does what is near the start of a model step: latents that came 0.1 s later.
    feed.time += 100_000_000
    count = len(plans)
    observer.until(lambda: len(plans) > count + 2, again=feed.next)
    assert (plans[-1].header.stamp.sec * 1_000_000_000 + plans[-1].header.stamp.nanosec) % BLOCK == 0


@pytest.mark.fault
def test_fault_45_a_camera_that_sees_nothing_usual_gives_no_goal(processes, observer, checkpoint, tmp_path):
    from std_srvs.srv import Trigger

    folder = shutil.copytree(checkpoint, tmp_path / "with_norms")
    config = json.loads((folder / "config.json").read_text())
    config["thresholds"] |= {"norm_low": 2.0, "norm_high": 3.0}
    (folder / "config.json").write_text(json.dumps(config))
    processes.node("planner_node", config=False, checkpoint=folder)
    feed, answers = Feed(observer), []

    def seen():
        feed.next()  # a latent of norm 0.8
        answers.append(observer.call(Trigger, "planner/goal_from_camera"))

    observer.until(lambda: answers and "no latent yet" not in answers[-1].message, again=seen)
    assert not answers[-1].success
    assert "like none seen in training" in answers[-1].message


def test_what_the_camera_sees_becomes_the_goal(planner, observer):
    from std_msgs.msg import Float32
    from std_srvs.srv import Trigger

    distances = observer.collect(Float32, "goal/distance")
    feed = Feed(observer)
    answer = observer.call(Trigger, "planner/goal_from_camera")
    assert not answer.success
    assert "encoder_node" in answer.message

    def seen():
        feed.next()
        answers.append(observer.call(Trigger, "planner/goal_from_camera").success)

    answers = []
    observer.until(lambda: any(answers), again=seen)
    observer.until(lambda: distances, again=feed.next)
    assert distances[0].data == pytest.approx(0.0, abs=1e-6)


def test_a_latent_of_long_ago_becomes_no_goal(planner, observer):
    from std_srvs.srv import Trigger

    feed, answers = Feed(observer), []

    def ask():
        answers.append(observer.call(Trigger, "planner/goal_from_camera"))
        return answers[-1]

    observer.until(lambda: ask().success, again=feed.next)
    observer.until(lambda: not ask().success)  # the camera gives nothing any more
    assert re.match(r"the newest latent came [1-9]\d*\.", answers[-1].message)
    assert "the camera and encoder_node are running" in answers[-1].message
    observer.until(lambda: ask().success, again=feed.next)


@pytest.mark.fault
def test_fault_51_joints_that_publishers_share_are_collected_with_an_age_each(
    processes, observer, arm_checkpoint
):
    from diagnostic_msgs.msg import DiagnosticStatus
    from sensor_msgs.msg import JointState
    from trajectory_msgs.msg import JointTrajectory

    plans = observer.collect(JointTrajectory, "plan")
    health = observer.collect(DiagnosticStatus, "planner_node/health")
    node = processes.node("planner_node", config=False, checkpoint=arm_checkpoint)
    feed = Feed(observer)
    places = {"joint1": 1.0, "joint2": 2.0, "finger": float("nan")}
    publishers = {name: observer.node.create_publisher(JointState, "joint_states", 10) for name in places}
    observer.until(lambda: feed.latents.get_subscription_count() and feed.goals.get_subscription_count())
    observer.until(lambda: all(p.get_subscription_count() for p in publishers.values()))
    feed.goals.publish(latent(1, 1.0))

    def again():
        for name, place in places.items():
            publishers[name].publish(JointState(name=[name], position=[place]))
        feed.next()

    observer.until(lambda: len(plans) > 5, again=again)
    first = plans[-1].points[0]
    np.testing.assert_allclose(first.positions, [1.0, 2.0], atol=0.3)
    assert "rejected" not in node.log.read_text()
    del places["joint2"]
    lost = "no plan: its positions cannot be integrated: joint_states had no position of joint2 for more than"
    observer.until(lambda: lost in said(health), again=again)
    count = len(plans)
    places["joint2"] = 2.0
    observer.until(lambda: len(plans) > count, again=again)
