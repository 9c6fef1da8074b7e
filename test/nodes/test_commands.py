"""Actions as messages, as controllers read them."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not here: make setup installs it, or source one")
from world_model_ros.model.config import ActionSpec
from world_model_ros.nodes.commands import Commands

JOINTS = ActionSpec(("a", "b"), "joint_velocity", "rad/s", (0, 0), (1, 1), (-1, -1), (1, 1))
PERIOD = 0.05
MEASURED = np.array([0.5, -1.0])
STILL = np.zeros(2)


def points(message):
    return [
        (list(p.positions), list(p.velocities), p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec)
        for p in message.points
    ]


@pytest.fixture
def commands():
    return Commands(JOINTS, "joint_trajectory", PERIOD)


def test_a_moving_trajectory_ends_standing_still_a_step_later(commands):
    message = commands.message(7, np.array([1.0, -0.2]), True, MEASURED)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)  # now
    first, last = points(message)
    assert first == (pytest.approx([0.55, -1.01]), [1.0, -0.2], pytest.approx(0.05))
    assert last == (pytest.approx([0.575, -1.015]), [0.0, 0.0], pytest.approx(0.1))


def test_a_plan_goes_on_from_where_it_led_not_from_what_lags_behind(commands):
    for _ in range(3):
        message = commands.message(0, np.array([1.0, 0.0]), True, MEASURED)
    assert points(message)[0][0] == pytest.approx([0.65, -1.0])


def test_standing_still_keeps_what_was_measured_when_it_began(commands):
    commands.message(0, np.array([1.0, 0.0]), True, MEASURED)
    for sunk in (0.0, 0.01, 0.02):
        message = commands.message(0, STILL, False, MEASURED - sunk)
        assert [p[0] for p in points(message)] == [pytest.approx(MEASURED)] * 2
        assert all(p[1] == [0.0, 0.0] for p in points(message))
    message = commands.message(0, np.array([1.0, 0.0]), True, MEASURED - 0.02)
    assert points(message)[0][0] == pytest.approx([0.53, -1.02])  # from where it is now


def test_no_position_is_made_up(commands):
    assert commands.message(0, STILL, False, None) is None
    assert commands.message(0, np.ones(2), True, None) is None


def test_velocities_and_twists_are_zero_when_still():
    assert list(Commands(JOINTS, "velocities", PERIOD).message(0, STILL, False, None).data) == [0.0, 0.0]
    twist = ActionSpec(("linear_x", "angular_z"), "twist", "m/s", (0, 0), (1, 1), (-1, -1), (1, 1), "base")
    message = Commands(twist, "twist", PERIOD).message(2_000_000_005, np.array([0.1, -0.3]), True, None)
    assert (message.twist.linear.x, message.twist.angular.z) == (0.1, -0.3)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (2, 5)
    assert message.header.frame_id == "base"
