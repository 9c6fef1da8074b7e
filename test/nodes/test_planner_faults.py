"""Rows of the fault table that planner_node answers for; its planner is made to fail in the process."""

import re

import numpy as np
import pytest

from test.observer import said

pytestmark = [pytest.mark.ros, pytest.mark.fault]
BLOCK = 250_000_000
NODE = """
import os, sys, threading
sys.argv = ["planner_node", "--ros-args", "-p", "checkpoint:=%s", "-p", "hang_timeout:=%s"]
from world_model_ros.nodes import environment
environment.prepare()
import torch
from world_model_ros.nodes import planner_node, running
from world_model_ros.errors import NoPlanError
from world_model_ros.planning.planner import Plan, RecedingHorizonPlanner
def wait_for(path):
    while not os.path.exists(path):
        threading.Event().wait(0.02)
%s
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


def start(processes, checkpoint, what, hang_timeout=0.5, first=""):
    return processes.start("-c", NODE % (checkpoint, hang_timeout, first, what))


def test_fault_17_planning_that_raises_is_a_fault_with_its_traceback(processes, checkpoint, feed, observer):
    broken = 'raise RuntimeError("the wheels came off")'
    node = start(processes, checkpoint, broken, hang_timeout=30.0)
    feed.begin()
    observer.until(lambda: feed.asks() == "fault", again=feed.next)
    assert "the wheels came off" in feed.health[-1].message
    assert "Traceback" in feed.health[-1].message
    count = len(feed.plans)
    observer.until(lambda: feed.asks() == "go_on" and len(feed.plans) > count, again=feed.next)
    observer.until(lambda: "Traceback" in node.log.read_text())  # the log may be written after the report
    assert node.log.read_text().count("Traceback") == 1  # logged once


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
    observer.until(lambda: "no progress" in said(feed.health), again=feed.next)
    assert feed.asks() == "hold"
    ended = feed.time
    observer.repeat(feed.next, 10)
    # A plan is due a block after its latent: none is of a later latent.
    assert max(map(due, feed.plans)) <= ended + BLOCK
    assert observer.call(SetBool, "planner/enable", SetBool.Request(data=True)).success
    observer.until(lambda: max(map(due, feed.plans)) > ended + BLOCK, again=feed.next)


STEPS = """
from world_model_ros.monitoring.progress import Progress
real_step = Progress.step
def step(self, now, distance):
    print("step", now, flush=True)
    return real_step(self, now, distance)
Progress.step = step
"""


def test_fault_35_a_plan_from_before_a_call_to_try_again_does_not_count(
    processes, checkpoint, feed, observer, tmp_path
):
    ends = tmp_path / "ends"
    what = f'print("held", flush=True); wait_for("{ends}")'
    node = start(processes, checkpoint, what, hang_timeout=30.0, first=STEPS)
    feed.begin()
    observer.until(lambda: "held" in node.log.read_text(), again=feed.next)
    enable(observer, True)
    before, count = len(node.log.read_text()), len(feed.plans)
    held = feed.time
    ends.touch()
    observer.until(lambda: len(feed.plans) > count, again=feed.next)
    steps = re.findall(r"^step (\d+)", node.log.read_text()[before:], re.MULTILINE)
    assert steps
    assert all(int(step) > held for step in steps)


def test_fault_17_a_node_whose_plan_hangs_is_not_activated_beside_it(
    processes, checkpoint, feed, observer, ask, tmp_path
):
    begun, ends = tmp_path / "begun", tmp_path / "ends"
    node = start(processes, checkpoint, f'open("{begun}", "w"); wait_for("{ends}")')
    feed.begin()
    # A plan that only waits for a processor is such a fault, too.
    observer.until(lambda: begun.exists() and feed.asks() == "fault", again=feed.next)
    assert ask.change_state("planner_node", "deactivate")
    assert not ask.change_state("planner_node", "activate")  # two workers would use one planner
    assert "the last plan has not ended for" in node.log.read_text()
    assert "restart planner_node" in node.log.read_text()
    ends.touch()
    observer.until(lambda: ask.change_state("planner_node", "activate"))
    count = len(feed.plans)
    observer.until(lambda: feed.asks() == "go_on" and len(feed.plans) > count, again=feed.next)


def enable(observer, value):
    from std_srvs.srv import SetBool

    assert observer.call(SetBool, "planner/enable", SetBool.Request(data=value)).success


def test_fault_17_a_plan_that_ends_after_all_is_no_fault_any_more(
    processes, checkpoint, feed, observer, tmp_path
):
    begun, ends = tmp_path / "begun", tmp_path / "ends"
    # The job that waits beside the one that hangs is not planned any more: it would hang, too.
    what = f'open("{begun}", "w"); len(calls) > 5 and threading.Event().wait(2); wait_for("{ends}")'
    start(processes, checkpoint, what)
    feed.begin()
    observer.until(lambda: begun.exists() and feed.asks() == "fault", again=feed.next)
    observer.repeat(feed.next, 3)
    enable(observer, False)  # so that the plan is discarded, and no other one follows

    def values():
        return {v.key: v.value for v in feed.health[-1].values}

    observer.until(lambda: values()["enabled"] == "false" and feed.asks() == "fault")
    ends.touch()
    observer.until(lambda: feed.asks() == "go_on")
    feed.health.clear()
    observer.until(lambda: len(feed.health) > 60)  # 3 s of heartbeats
    assert {feed.asks(i) for i in range(60)} == {"go_on"}


def test_fault_13_a_step_without_a_plan_is_not_told_once_planning_is_disabled(
    processes, checkpoint, feed, observer, ask, tmp_path
):
    begun, ends = tmp_path / "begun", tmp_path / "ends"
    what = f'open("{begun}", "w"); wait_for("{ends}"); raise NoPlanError("too late")'
    start(processes, checkpoint, what, hang_timeout=100.0)
    feed.begin()
    observer.until(begun.exists, again=feed.next)
    enable(observer, False)
    ends.touch()
    observer.until(lambda: int(ask.diagnosis("planner_node")[2].get("failures", 0)) > 0)
    count = len(feed.health)
    observer.until(lambda: len(feed.health) > count + 3)
    assert not [message for message in feed.health if "too late" in message.message]


def test_the_worker_publishes_health_under_the_lock_and_leaves_reports_to_the_executor(
    processes, checkpoint, feed, observer, ask
):
    first = """
def report(self):
    print("report", threading.current_thread().name, flush=True)
    real_report(self)
def publish_health(self, *inputs, **values):
    print("health", threading.current_thread().name, self.lock.locked(), flush=True)
    real_publish_health(self, *inputs, **values)
Node = planner_node.PlannerNode
real_report, real_publish_health = Node.report, Node.publish_health
Node.report, Node.publish_health = report, publish_health
"""
    node = start(processes, checkpoint, 'raise NoPlanError("of this picture")', 100.0, first)
    feed.begin()
    observer.until(lambda: feed.asks() == "hold", again=feed.next)
    observer.until(lambda: "planning_ms_p50" in ask.diagnosis("planner_node")[2], again=feed.next)
    log = node.log.read_text()
    assert "report planner" not in log
    assert "health planner True" in log
    # Where the executor could come in between, its word would be overwritten.
    assert "health planner False" not in log


def test_fault_35_a_time_in_which_the_robot_was_kept_still_is_no_lack_of_progress(
    processes, checkpoint, feed, observer
):
    from sensor_msgs.msg import JointState

    processes.node("planner_node", config=False, checkpoint=checkpoint, progress_timeout=2.0)
    executed = observer.node.create_publisher(JointState, "command/executed", 50)
    observer.until(executed.get_subscription_count)
    action = [0.0, 0.0]

    def again():
        feed.next()
        for time in range(feed.time, feed.time + BLOCK, 50_000_000):
            message = JointState(name=["linear_x", "linear_y"], velocity=action)
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(time, 1_000_000_000)
            executed.publish(message)

    def stuck():
        return "no progress" in said(feed.health)

    observer.until(lambda: feed.latents.get_subscription_count() and feed.goals.get_subscription_count())
    again()
    feed.goals.publish(feed.message(1.0))
    observer.until(lambda: feed.plans, again=again)
    count, end = len(feed.plans), due(feed.plans[-1]) + 24 * BLOCK  # 6 s
    observer.until(lambda: stuck() or due(feed.plans[-1]) > end, again=again)
    assert not stuck()
    assert len(feed.plans) > count
    action[0] = 0.1
    observer.until(stuck, again=again)
    action[0] = 0.0  # command_node keeps the robot still for it, which is no reason to go on
    ended = feed.time
    feed.health.clear()
    observer.repeat(again, 12)
    observer.until(lambda: len(feed.health) > 10)
    assert all("no progress" in message.message for message in feed.health)
    assert max(map(due, feed.plans)) <= ended + BLOCK
