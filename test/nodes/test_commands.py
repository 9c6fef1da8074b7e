"""Actions as messages, as controllers read them."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not here: make setup installs it, or source one")
from world_model_ros.model.config import ActionSpec
from world_model_ros.nodes.commands import Commands
from world_model_ros.safety.limits import Limits
from world_model_ros.safety.poses import LEASH

JOINTS = ActionSpec(("a", "b"), "joint_velocity", "rad/s", (0, 0), (1, 1), (-1, -1), (1, 1))
WIDE, NARROW = (Limits(JOINTS.names, JOINTS.low, JOINTS.high, None, (-at, -at), (at, at)) for at in (9, 0.5))
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
    return Commands(JOINTS, "joint_trajectory", PERIOD, WIDE)


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


def test_a_blocked_arm_is_not_sent_ever_further(commands):
    for _ in range(100):
        message = commands.message(0, np.array([1.0, 0.0]), True, MEASURED)
    assert points(message)[0][0] == pytest.approx([0.5 + LEASH + 0.05, -1.0])


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
    assert list(Commands(JOINTS, "velocities", PERIOD, WIDE).message(0, STILL, False, None).data) == [
        0.0,
        0.0,
    ]
    twist = ActionSpec(("linear_x", "angular_z"), "twist", "m/s", (0, 0), (1, 1), (-1, -1), (1, 1), "base")
    limits = Limits(twist.names, twist.low, twist.high)
    commands = Commands(twist, "twist", PERIOD, limits)
    message = commands.message(2_000_000_005, np.array([0.1, -0.3]), True, None)
    assert (message.twist.linear.x, message.twist.angular.z) == (0.1, -0.3)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (2, 5)
    assert message.header.frame_id == "base"


@pytest.fixture
def narrow():
    return Commands(JOINTS, "joint_trajectory", PERIOD, NARROW)


def places(message):
    return np.array([point.positions for point in message.points])


@pytest.mark.fault
def test_fault_14_no_point_of_a_trajectory_lies_outside_the_position_limits(narrow):
    """The joints lag a step or two behind what was commanded; what they measure does not say it all."""
    measured, sent = np.array([0.45, 0.0]), []
    for _ in range(20):
        message = narrow.message(0, np.array([1.0, 0.1]), True, measured)
        sent.append(places(message))
        measured = sent[-3][0] if len(sent) > 2 else measured
    assert np.max(sent) == 0.5
    assert list(message.points[0].velocities) == [0.0, 0.1]


@pytest.mark.fault
def test_fault_14_a_joint_outside_its_limits_is_held_and_may_only_come_back(narrow):
    outside = np.array([0.6, 0.0])
    assert places(narrow.message(0, np.zeros(2), False, outside))[:, 0].tolist() == [0.6, 0.6]
    assert places(narrow.message(0, np.array([1.0, 0.0]), True, outside))[:, 0].max() == 0.6
    back = narrow.message(0, np.array([-1.0, 0.0]), True, outside)
    assert places(back)[:, 0] == pytest.approx([0.55, 0.525])
