"""The simulated robot's camera and clock."""

import re

import numpy as np
import pytest

pytestmark = pytest.mark.ros
MS = 1_000_000


def nanoseconds(stamp):
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def frames_of(processes, observer, count, **parameters):
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    deep = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
    frames = observer.collect(Image, "camera/image_raw", deep)
    processes.node("sim_node", **parameters)
    observer.until(lambda: len(frames) >= count)
    return [nanoseconds(frame.header.stamp) for frame in frames]


def test_without_a_rate_each_model_step_has_a_frame_at_its_start(processes, observer):
    stamps = frames_of(processes, observer, 8)
    assert all(stamp % (250 * MS) == 0 for stamp in stamps)
    assert set(np.diff(stamps)) == {250 * MS}


def test_a_camera_with_a_rate_has_a_clock_of_its_own_and_true_stamps(processes, observer):
    stamps = frames_of(processes, observer, 40, camera_rate=24.0, camera_jitter=0.01)
    intervals = np.diff(stamps)
    single = intervals[intervals < 1.5e9 / 24]  # a frame that a busy computer lost leaves a longer one
    assert len(single) > 20
    assert 1e9 / np.mean(single) == pytest.approx(24, rel=0.1)
    assert (intervals > 0).all()
    assert np.std(single) > 3 * MS
    assert any(stamp % (50 * MS) for stamp in stamps)
    assert all(stamp % 6_250_000 == 0 for stamp in stamps)  # when the physics stood still for the picture


def test_a_reset_is_no_frame_of_the_future(processes, observer, checkpoint, ask):
    from sensor_msgs.msg import Image

    latents = observer.collect(Image, "latent")
    processes.node("sim_node")
    encoder = processes.node("encoder_node", checkpoint=checkpoint)
    observer.until(lambda: len(latents) > 3)
    for _ in range(2):
        assert ask.trigger("sim/reset").success
        count = len(latents)
        observer.until(lambda: len(latents) > count + 4)  # noqa: B023
    stamps = [nanoseconds(m.header.stamp) for m in latents]
    assert list(np.diff(stamps)).count(750 * MS) == 2  # a gap each, and no frame was dropped beside it
    assert "synchronise" not in encoder.log.read_text()


def test_a_goal_is_judged_though_its_latent_was_published_before_the_sim_was_known(processes, observer):
    from std_msgs.msg import Float32
    from trajectory_msgs.msg import JointTrajectory

    plans = observer.node.create_publisher(JointTrajectory, "plan", 10)
    distances = observer.node.create_publisher(Float32, "goal/distance", 10)
    sim = processes.node("sim_node", goals=1, budget=3, lockstep_timeout=0.1)

    def plan():
        plans.publish(JointTrajectory())  # what it is for matters little: a plan comes, and no goal/latent
        distances.publish(Float32(data=1.0))

    observer.until(lambda: sim.poll() is not None, again=plan)
    assert "goal 1/1 missed" in sim.log.read_text()


@pytest.mark.fault
def test_fault_61_a_second_clock_in_the_domain_is_refused(processes, observer):
    from rosgraph_msgs.msg import Clock

    clock = observer.collect(Clock, "/clock")
    first = processes.node("sim_node")
    observer.until(lambda: clock)
    second = processes.node("sim_node")
    observer.until(lambda: second.poll() is not None)
    assert second.returncode == 2
    assert "/clock is also published by /sim_node" in second.log.read_text()
    assert "Traceback" not in second.log.read_text()
    count = len(clock)
    observer.until(lambda: len(clock) > count + 20)
    stamps = [nanoseconds(m.clock) for m in clock]
    assert stamps == sorted(stamps)  # the second one never published a time
    assert first.poll() is None


@pytest.mark.fault
@pytest.mark.parametrize("rate", ["15"])
def test_fault_57_goals_are_reached_with_a_camera_off_the_grid(processes, observer, rate):
    options = ("--goals", "12", "--real-time-factor", "0", "--seed", "3")
    sim = processes.sim(*options, "--camera-rate", rate, "--camera-jitter", "0.01")
    observer.until(lambda: sim.poll() is not None, seconds=200)
    log = sim.log.read_text()
    assert sim.returncode == 0, log
    assert log.count(" reached: ") >= 9, log
    judged, steps = map(int, re.search(r"surprise judged on (\d+) of (\d+) model steps", log).groups())
    assert steps > 30
    # On a busy machine the monitor may find command_node after seconds of simulated time. Of a camera that it
    # cannot follow it judges no step at all.
    assert judged > steps / 2, log


def test_a_reset_of_the_simulation_holds_nothing(processes, observer, ask):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import JointState
    from std_msgs.msg import String

    latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    status = observer.collect(String, "status", latched)
    executed = observer.collect(JointState, "command/executed", 1000)
    processes.node("sim_node")
    nodes = [
        processes.node(name, checkpoint="reach")
        for name in ("encoder_node", "planner_node", "command_node", "monitor_node")
    ]

    def moves():
        return sum(any(m.velocity) for m in executed)

    observer.until(lambda: moves() > 10)
    count = len(status)
    for _ in range(3):
        assert ask.trigger("sim/reset").success
        executed.clear()
        observer.until(lambda: moves() > 10)
    after = [m.data for m in status[count:]]
    assert not [line for line in after if line.startswith(("HOLD", "FAULT"))], after
    for node in nodes:
        assert "synchronise" not in node.log.read_text()
