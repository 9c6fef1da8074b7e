"""The whole loop as real ROS 2 processes over Fast DDS."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]
BLOCK = 250_000_000
LINE = re.compile(
    r"goal (\d)/(\d) (reached|missed): \d+ mm, \d+ steps, \d+\.\d s(, planning \d+ ms)?(: .+)?$", re.M
)


def nanoseconds(stamp):
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def test_one_plan_a_model_step_and_a_line_a_goal(processes, observer, checkpoint):
    from sensor_msgs.msg import Image, JointState
    from trajectory_msgs.msg import JointTrajectory

    plans = observer.collect(JointTrajectory, "plan", 1000)
    latents = observer.collect(Image, "latent")
    executed = observer.collect(JointState, "command/executed", 1000)
    sim = processes.sim("--goals", "2", "--real-time-factor", "0", "--checkpoint", checkpoint)
    observer.until(lambda: sim.poll() is not None, seconds=150)
    log = sim.log.read_text()
    assert sim.returncode == 0, log
    assert [match[0] for match in LINE.findall(log)] == ["1", "2"], log
    assert re.search(r"^\d of 2 goals reached", log, re.M), log
    assert "Traceback" not in log
    assert processes.alive() == []

    stamps = [nanoseconds(plan.header.stamp) for plan in plans]
    steps = [b - a for a, b in zip(stamps, stamps[1:], strict=False)]
    assert len(stamps) >= 75 // 5  # half of them: a busy observer discovers the planner late
    assert all(step > 0 and step % BLOCK == 0 for step in steps)
    assert sum(step != BLOCK for step in steps) <= 1  # at most where the first plan came too late
    for plan in plans:
        assert list(plan.joint_names) == ["linear_x", "linear_y"]
        times = [nanoseconds(point.time_from_start) for point in plan.points]
        assert times == [50_000_000 * (i + 1) for i in range(len(times))]
        assert len(times) % 5 == 0
        assert all(abs(v) <= 0.4 for point in plan.points for v in point.velocities)
        assert all(len(point.velocities) == 2 for point in plan.points)
    assert {(latent.encoding, latent.height, latent.width) for latent in latents} == {("32FC1", 1, 64)}

    # What went out is, step by step, what the plan that was due then had.
    planned = {}
    for plan in plans:
        start = nanoseconds(plan.header.stamp)
        for i, point in enumerate(plan.points[:5]):
            planned[start + i * 50_000_000] = list(point.velocities)
    done = {nanoseconds(m.header.stamp): list(m.velocity) for m in executed}
    # The simulation waits for commands once it has discovered who sends them: until then some are left out.
    begin = next(t for t in sorted(done) if all(t + i * 50_000_000 in done for i in range(10)))
    planned = {t: action for t, action in planned.items() if t >= begin}
    both = sorted(set(planned) & set(done))
    assert len(planned) - len(both) <= 15  # of the first plan that came late, and of the last two
    # A busy machine may be late with a picture, and the robot stands still meanwhile.
    moved = [t for t in both if any(done[t])]
    assert len(moved) >= 75 // 2, log
    assert sum(planned[t] != done[t] for t in moved) <= 5, log  # the first block, likewise


@pytest.mark.skipif(not (ROOT / "models/reach").is_dir(), reason="models/reach is not shipped in this tree")
@pytest.mark.parametrize("factor", ["0", "1"])
def test_one_goal_follows_another_where_the_camera_has_a_rate_of_its_own(processes, observer, factor):
    sim = processes.sim("--goals", "3", "--camera-rate", "20", "--real-time-factor", factor)
    observer.until(lambda: sim.poll() is not None, seconds=200)
    assert [match[0] for match in LINE.findall(sim.log.read_text())] == ["1", "2", "3"]


@pytest.mark.skipif(not (ROOT / "models/reach").is_dir(), reason="models/reach is not shipped in this tree")
def test_reaches_goals_with_the_shipped_model(processes, observer):
    sim = processes.sim("goals:=4", "real_time_factor:=0", "task:=reach", "seed:=3")
    observer.until(lambda: sim.poll() is not None, seconds=200)
    log = sim.log.read_text()
    assert sim.returncode == 0, log
    assert log.count(" reached: ") >= 3, log
