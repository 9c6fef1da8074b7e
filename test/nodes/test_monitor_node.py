"""What monitor_node measures and asks for, on a real node."""

import json
import re

import numpy as np
import pytest

from test.observer import said

pytestmark = pytest.mark.ros
BLOCK, PERIOD = 250_000_000, 50_000_000


@pytest.fixture
def monitored(checkpoint, tmp_path):
    """Return a checkpoint that nothing but a wild latent surprises."""
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "monitored")
    config = json.loads((folder / "config.json").read_text())
    config["thresholds"] |= {"surprise": 1e4, "norm_low": 0.1, "norm_high": 1e3}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


class World:
    """Latents and executed actions, one model step at a time."""

    def __init__(self, observer):
        from diagnostic_msgs.msg import DiagnosticStatus
        from sensor_msgs.msg import Image, JointState
        from std_msgs.msg import Float32

        self.observer = observer
        self.latents = observer.node.create_publisher(Image, "latent", 50)
        self.executed = observer.node.create_publisher(JointState, "command/executed", 50)
        self.surprises = observer.collect(Float32, "surprise")
        self.health = observer.collect(DiagnosticStatus, "monitor_node/health")
        self.time = 1_000_000_000
        self.value = 0.1

    def step(self, value=None, command_node=True):
        for _ in range(5):
            if command_node:
                self.act()
            self.time += PERIOD
        self.see(value)

    def act(self, speed=0.1):
        from sensor_msgs.msg import JointState

        message = JointState(name=["linear_x", "linear_y"], velocity=[speed, 0.0])
        self.stamp(message)
        self.executed.publish(message)

    def see(self, value=None):
        from sensor_msgs.msg import Image

        message = Image(height=1, width=64, encoding="32FC1", step=256)
        message.data = np.full(64, self.value if value is None else value, np.float32).tobytes()
        self.stamp(message)
        self.latents.publish(message)

    def stamp(self, message):
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self.time, 1_000_000_000)

    def ready(self):
        self.observer.until(
            lambda: self.latents.get_subscription_count() and self.executed.get_subscription_count()
        )

    def asks(self):
        return {v.key: v.value for v in self.health[-1].values}.get("asks_for") if self.health else None


@pytest.fixture
def world(observer):
    return World(observer)


@pytest.mark.fault
def test_fault_36_surprise_for_some_steps_asks_for_a_standstill(processes, monitored, world, observer, ask):
    processes.node("monitor_node", config=False, checkpoint=monitored)
    observer.until(lambda: world.latents.get_subscription_count() > 0)
    observer.until(lambda: len(world.surprises) > 3 and world.asks() == "go_on", again=world.step)
    signs = iter(range(1000))
    observer.until(lambda: world.asks() == "hold", again=lambda: world.step(30.0 * (-1) ** next(signs)))
    assert "does not do what the model expects" in world.health[-1].message
    observer.until(lambda: world.asks() == "go_on", again=world.step)

    def metric(name):
        return float(ask.diagnosis("monitor_node")[2].get(name, 0))

    observer.until(lambda: metric("surprises") >= 3 and metric("latent_hz") > 0, again=world.step)


@pytest.mark.fault
def test_fault_36_pictures_like_none_in_training_ask_for_a_hold_or_only_warn(
    processes, monitored, world, observer, ask
):
    processes.node("monitor_node", config=False, checkpoint=monitored)
    observer.until(lambda: world.latents.get_subscription_count() > 0)
    observer.until(lambda: world.asks() == "hold", again=lambda: world.step(900.0))
    assert "like none seen in training" in world.health[-1].message
    observer.until(lambda: world.asks() == "go_on", again=world.step)
    assert ask.set_parameter("monitor_node", "hold", False)[0].successful
    observer.until(lambda: "like none" in said(world.health), again=lambda: world.step(900.0))
    assert world.asks() == "go_on"


def test_what_the_monitor_asks_for_is_what_the_command_side_does(
    processes, checkpoint, monitored, robot, world, observer
):
    # What it sends belongs to another time than the world's latents.
    given = ("-p", f"checkpoint:={checkpoint}", "-r", "command/executed:=robot/executed")
    processes.start("-m", "world_model_ros.nodes", "command_node", "--ros-args", *given)
    processes.node("monitor_node", config=False, checkpoint=monitored)
    robot.get_moving()
    signs = iter(range(1000))

    def drive():  # the latents are the world's
        robot.publish_joints()
        robot.publish_plan()

    def surprise():
        drive()
        world.step(30.0 * (-1) ** next(signs))

    observer.until(lambda: robot.state() == "HOLD" and "monitor_node" in robot.reason(), again=surprise)
    observer.until(robot.at_rest, again=surprise)

    def normal():
        drive()
        world.step()

    observer.until(robot.moving, again=normal)


def test_a_gap_of_command_node_is_a_gap(processes, monitored, world, observer, ask):
    """What was planned is not what was done: without command_node nothing can be expected."""
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    plans = observer.node.create_publisher(JointTrajectory, "plan", 10)
    processes.node("monitor_node", config=False, checkpoint=monitored)
    world.ready()
    observer.until(plans.get_subscription_count)
    observer.until(lambda: len(world.surprises) > 3, again=world.step)

    def absent():
        plan = JointTrajectory(joint_names=["linear_x", "linear_y"])
        world.stamp(plan)
        plan.points = [JointTrajectoryPoint(velocities=[0.4, 0.4]) for _ in range(10)]
        plans.publish(plan)
        world.step(command_node=False)

    def steps(name):
        return int(ask.diagnosis("monitor_node")[2].get(name, 0))

    why = "command/executed did not tell what the robot did"
    observer.until(lambda: why in ask.diagnosis("monitor_node")[2].get("not_judged_why", ""), again=absent)
    judged = len(world.surprises)
    missing = steps("steps_not_judged")
    observer.until(lambda: steps("steps_not_judged") > missing + 8, again=absent)
    assert len(world.surprises) == judged
    assert world.asks() == "go_on"
    observer.until(lambda: ask.diagnosed("monitor_node", why), again=absent)
    assert ask.diagnosis("monitor_node")[0] == b"\x01"  # WARN
    observer.until(lambda: len(world.surprises) > judged + 3, again=world.step)


def test_a_monitor_that_hears_no_latent_says_so_and_that_nothing_is_judged(
    processes, monitored, world, observer, ask
):
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    observer.node.destroy_publisher(world.latents)
    processes.node("monitor_node", config=False, checkpoint=monitored)
    observer.until(lambda: ask.diagnosed("monitor_node", "surprise is not judged: no "), again=world.act)
    level, sentence, _ = ask.diagnosis("monitor_node")
    assert level == b"\x01"
    assert sentence.endswith("; nobody publishes it")
    # One that it cannot hear: best effort, and it asks for reliable.
    world.latents = observer.node.create_publisher(Image, "latent", qos_profile_sensor_data)
    observer.until(lambda: ask.diagnosed("monitor_node", "; it has a publisher"), again=world.step)
    observer.node.destroy_publisher(world.latents)
    world.latents = observer.node.create_publisher(Image, "latent", 50)
    observer.until(lambda: ask.diagnosis("monitor_node")[:2] == (b"\x00", "fine"), again=world.step)
    assert world.asks() == "go_on"


class OffGrid:
    """A camera of any rate with 10 ms of jitter beside control steps of 50 ms; each call is one frame."""

    def __init__(self, world, rate):
        self.world, self.rate, self.number = world, rate, 0
        self.rng, self.begin, self.tick = np.random.default_rng(0), world.time, world.time

    def frame(self):
        jitter = int(self.rng.integers(-10_000_000, 10_000_001))
        stamp = self.begin + 13_000_000 + round(self.number * 1e9 / self.rate) + jitter
        self.number += 1
        while self.tick < stamp:
            self.world.time = self.tick
            self.world.act()
            self.tick += PERIOD
        self.world.time = stamp
        self.world.see()


@pytest.mark.fault
@pytest.mark.parametrize("rate", [10, 24])
def test_fault_57_steps_of_a_camera_off_the_grid_are_judged(processes, monitored, world, observer, ask, rate):
    processes.node("monitor_node", config=False, checkpoint=monitored)
    world.ready()
    camera = OffGrid(world, rate)

    def metrics():
        return ask.diagnosis("monitor_node")[2]

    observer.until(lambda: world.surprises, again=camera.frame)
    begin, early = (world.time - camera.begin) // BLOCK, len(world.surprises)
    missed = int(metrics().get("steps_not_judged", 0))

    def behind():  # more steps are there than a busy monitor has judged
        return len(world.surprises) - early < (world.time - camera.begin) // BLOCK - begin - 2

    while len(world.surprises) < 60:
        camera.frame()
        observer.spin_while(behind, 5.0)
    observer.until(lambda: int(metrics().get("steps_judged", 0)) >= 60)
    found = metrics()
    at_the_start = re.match(r"(\d+) at the start", found["not_judged_why"])  # perhaps not reported before
    not_judged = int(found["steps_not_judged"]) - max(missed, int(at_the_start[1]) if at_the_start else 0)
    assert not_judged <= 2, found["not_judged_why"]
    assert float(metrics()["camera_hz"]) == pytest.approx(rate, rel=0.1)
    assert ask.diagnosis("monitor_node")[0] == b"\x00"


@pytest.mark.fault
def test_fault_57_a_camera_that_is_too_slow_is_named_with_both_rates(
    processes, monitored, world, observer, ask
):
    processes.node("monitor_node", config=False, checkpoint=monitored)
    world.ready()
    camera = OffGrid(world, 5)
    observer.until(lambda: ask.diagnosed("monitor_node", "at least 10.0 are needed"), again=camera.frame)
    level, message, values = ask.diagnosis("monitor_node")
    assert level == b"\x01"
    assert "the camera gives 5." in message or "the camera gives 4." in message
    assert values["camera_hz_needed"] == "10.0"


@pytest.mark.fault
@pytest.mark.parametrize("lengths", [(2, 1), (0,), (), (3, 3)])
def test_fault_13_a_plan_that_is_none_is_refused_and_the_monitor_goes_on(
    processes, monitored, world, observer, ask, lengths
):
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    plans = observer.node.create_publisher(JointTrajectory, "plan", 5)
    node = processes.node("monitor_node", config=False, checkpoint=monitored)
    observer.until(lambda: world.latents.get_subscription_count() and plans.get_subscription_count())
    points = [JointTrajectoryPoint(velocities=[0.1] * length) for length in lengths]
    plan = JointTrajectory(joint_names=["linear_x", "linear_y"], points=points)
    observer.until(
        lambda: int(ask.diagnosis("monitor_node")[2].get("rejected plan", 0)) > 0,
        again=lambda: plans.publish(plan),
    )
    before = len(world.surprises)
    observer.until(lambda: len(world.surprises) > before + 3, again=world.step)
    assert node.poll() is None


@pytest.fixture
def foreboding(monitored):
    """Return a checkpoint whose risk head expects the event wherever the model imagines, but not now."""
    import dataclasses

    import torch

    from world_model_ros.model.checkpoint import load_checkpoint, save_checkpoint
    from world_model_ros.model.config import RiskSpec
    from world_model_ros.model.heads import Risk

    model, spec = load_checkpoint(monitored)
    now = torch.full((1, 3, 64), 0.1)
    imagined = model.rollout(now, torch.full((1, 2, 10), 0.5), torch.zeros(1, 1, 1, 10))[0, 0, 0]
    head = Risk(64, 2)
    away, middle = imagined - now[0, 0], (imagined + now[0, 0]) / 2
    with torch.no_grad():
        first, norm, _, second, _, last = head.net
        first.weight.copy_(torch.stack([away, -away]))
        first.bias.copy_(torch.stack([-away @ middle, away @ middle]))
        second.weight.copy_(torch.eye(2))
        last.weight.copy_(torch.tensor([[6.0, -6.0]]))
        for layer in (second, last):
            layer.bias.zero_()
    model.risk = head
    config = dataclasses.replace(spec.model, risk_hidden=2)
    limits = dataclasses.replace(spec.thresholds, surprise=1e9, norm_high=1e6)
    risk = RiskSpec("the glass will fall", "glass_z < 0.16", 0.6)
    changed = dataclasses.replace(spec, model=config, thresholds=limits, risk=risk)
    save_checkpoint(monitored, model, changed)
    return monitored, float(torch.sign(away.sum().detach()))


@pytest.mark.fault
def test_fault_36_what_the_plan_will_cause_is_said_and_asks_for_a_hold_where_a_parameter_says_so(
    processes, foreboding, world, observer, ask
):
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    checkpoint, side = foreboding
    plans = observer.node.create_publisher(JointTrajectory, "plan", 5)
    processes.node("monitor_node", config=False, checkpoint=checkpoint)
    observer.until(lambda: world.latents.get_subscription_count() and plans.get_subscription_count())

    def plan_and_step(value=None):
        points = [JointTrajectoryPoint(velocities=[0.1, 0.0]) for _ in range(15)]
        message = JointTrajectory(joint_names=["linear_x", "linear_y"], points=points)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(world.time + BLOCK, 1_000_000_000)
        plans.publish(message)
        world.step(value)

    observer.until(lambda: said(world.health).startswith("the glass will fall: "), again=plan_and_step)
    assert world.asks() == "go_on"
    assert ask.set_parameter("monitor_node", "hold_on_risk", True)[0].successful
    observer.until(lambda: world.asks() == "hold", again=plan_and_step)
    assert "the glass will fall" in world.health[-1].message
    # What has happened is not announced.
    observer.until(lambda: world.asks() == "go_on", again=lambda: plan_and_step(50.0 * side))


def test_a_camera_that_is_too_slow_for_it_is_not_taken_for_late(processes, monitored, world, observer):
    from std_msgs.msg import Float32

    from world_model_ros.nodes.qos import LATCHED

    latencies = observer.collect(Float32, "camera/latency", LATCHED)
    node = processes.node("monitor_node", config=False, checkpoint=monitored)
    observer.until(lambda: latencies and latencies[-1].data == 0.0)  # said at once
    world.ready()
    rng = np.random.default_rng(2)
    observer.until(lambda: len(world.surprises) > 5, again=lambda: world.step(rng.normal()))
    assert {message.data for message in latencies} == {0.0}
    assert "older than their stamps" not in node.log.read_text()


@pytest.mark.parametrize(("rate", "steps"), [(20.0, 2), (4.0, 0), (0.0, 2)])
def test_a_camera_that_becomes_slow_counts_as_up_to_date_again(rate, steps):
    """Or no picture would be near the start of a model step any more, and the robot stood still for ever."""
    from types import SimpleNamespace

    from world_model_ros.nodes.monitor_node import MonitorNode

    latency, taken = SimpleNamespace(steps=2), []
    latency.reset = lambda: setattr(latency, "steps", 0)
    node = SimpleNamespace(
        latency=latency, timeline=SimpleNamespace(rate=rate, fast=rate > 10), take_estimate=taken.append
    )
    MonitorNode.watch_rate(node)
    assert (latency.steps, taken) == (steps, [] if steps else [2])
