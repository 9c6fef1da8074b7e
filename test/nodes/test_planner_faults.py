"""Rows of the fault table that planner_node answers for; its planner is made to fail in the process."""

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.fault]
BLOCK = 250_000_000
NODE = """
import sys, threading
sys.argv = ["planner_node", "--ros-args", "-p", "checkpoint:=%s", "-p", "hang_timeout:=0.5"]
from world_model_ros.nodes import environment
environment.prepare()
import torch
from world_model_ros.nodes import planner_node, running
from world_model_ros.planning.receding import Plan, RecedingHorizonPlanner
calls = []
real = RecedingHorizonPlanner.plan
def plan(self, *inputs):
    calls.append(1)
    if threading.current_thread().name == "planner" and 4 < len(calls) < 9:
        %s
    return real(self, *inputs)
RecedingHorizonPlanner.plan = plan
running.run(planner_node.make_node)
"""


class Feed:
    """Latents at the pace of a camera, and a goal."""

    def __init__(self, observer):
        from diagnostic_msgs.msg import DiagnosticStatus
        from sensor_msgs.msg import Image
        from trajectory_msgs.msg import JointTrajectory

        self.observer = observer
        self.latents = observer.node.create_publisher(Image, "latent", 10)
        self.goals = observer.node.create_publisher(Image, "goal/latent", 10)
        self.plans = observer.collect(JointTrajectory, "plan")
        self.health = observer.collect(DiagnosticStatus, "planner_node/health")
        self.time = 1_000_000_000

    def message(self, value):
        from sensor_msgs.msg import Image

        message = Image(height=1, width=64, encoding="32FC1", step=256)
        message.data = np.full(64, value, np.float32).tobytes()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self.time, 1_000_000_000)
        return message

    def next(self):
        self.time += BLOCK
        self.latents.publish(self.message(0.1))

    def begin(self):
        self.observer.until(
            lambda: self.latents.get_subscription_count() and self.goals.get_subscription_count()
        )
        self.goals.publish(self.message(1.0))
        self.observer.until(lambda: self.plans, again=self.next)

    def asks(self, index=-1):
        return {v.key: v.value for v in self.health[index].values}.get("asks_for") if self.health else None


def due(plan):
    return plan.header.stamp.sec * 1_000_000_000 + plan.header.stamp.nanosec


@pytest.fixture
def feed(observer):
    return Feed(observer)


def start(processes, checkpoint, what):
    return processes.start("-c", NODE % (checkpoint, what))


def test_fault_17_planning_that_raises_is_a_fault_with_its_traceback(processes, checkpoint, feed, observer):
    node = start(processes, checkpoint, 'raise RuntimeError("the wheels came off")')
    feed.begin()
    observer.until(lambda: feed.asks() == "fault", again=feed.next)
    assert "the wheels came off" in feed.health[-1].message
    assert "Traceback" in feed.health[-1].message
    assert node.log.read_text().count("Traceback") == 1  # said once
    count = len(feed.plans)
    observer.until(lambda: feed.asks() == "go_on" and len(feed.plans) > count, again=feed.next)


def test_fault_17_planning_that_hangs_is_a_fault_that_shows_where(processes, checkpoint, feed, observer):
    node = start(processes, checkpoint, "threading.Event().wait(3)")
    feed.begin()
    observer.until(lambda: feed.asks() == "fault", again=feed.next)
    assert "has not ended for 0.5 s" in feed.health[-1].message
    assert "in plan" in feed.health[-1].message
    node.terminate()
    processes.ends_within(node, 2.0, observer.spin)
    assert node.returncode == 0


def test_fault_13_a_step_without_a_finite_plan_holds_and_the_next_one_goes_on(
    processes, checkpoint, feed, observer
):
    broken = "return Plan(torch.full((25, 2), torch.nan).numpy(), 1.0, 1.0, 5, 1.0, 1, 1)"
    start(processes, checkpoint, broken)
    feed.begin()
    observer.until(lambda: feed.asks() == "hold", again=feed.next)
    assert "not finite" in feed.health[-1].message
    assert all(np.isfinite(p.velocities).all() for plan in feed.plans for p in plan.points)
    count = len(feed.plans)
    observer.until(lambda: feed.asks() == "go_on" and len(feed.plans) > count, again=feed.next)


def test_fault_19_a_lost_gpu_ends_the_process_so_that_it_is_respawned(processes, checkpoint, feed, observer):
    node = start(processes, checkpoint, 'raise RuntimeError("CUDA error: an illegal memory access")')
    feed.begin()
    observer.until(lambda: node.poll() is not None, again=feed.next)
    assert node.returncode == 3
    assert "only a new process" in node.log.read_text()


def test_fault_28_a_goal_replaced_mid_plan_discards_the_plan(processes, checkpoint, feed, observer, ask):
    start(processes, checkpoint, "threading.Event().wait(0.3)")
    feed.begin()

    def replace():
        feed.next()
        feed.goals.publish(feed.message(feed.time % 7))

    observer.until(lambda: int(ask.diagnosis("planner_node")[2].get("discarded", 0)) > 0, again=replace)


def test_fault_35_no_progress_ends_planning_and_says_so(processes, checkpoint, feed, observer):
    from std_srvs.srv import SetBool

    processes.node("planner_node", config=False, checkpoint=checkpoint, progress_timeout=2.0)
    feed.begin()
    observer.until(lambda: "no progress" in (feed.health[-1].message if feed.health else ""), again=feed.next)
    assert feed.asks() == "hold"
    ended = feed.time
    observer.repeat(feed.next, 10)
    # A plan is due a block after its latent: none is of a later latent.
    assert max(map(due, feed.plans)) <= ended + BLOCK
    assert observer.call(SetBool, "planner/enable", SetBool.Request(data=True)).success
    observer.until(lambda: max(map(due, feed.plans)) > ended + BLOCK, again=feed.next)
