"""Actions as trajectories of a joint_trajectory_controller."""

import numpy as np
import pytest

from world_model_ros.control.limits import Limits
from world_model_ros.model.config import ActionSpec

NAMES = ("joint1", "joint2")
PERIOD = 0.05


@pytest.fixture
def commands():
    pytest.importorskip("rclpy", reason="ROS 2 is not here: make setup installs it, or source one")
    from world_model_ros.nodes.commands import Commands

    ones = (1.0, 1.0)
    action = ActionSpec(NAMES, "joint_velocity", "rad/s", (0.0, 0.0), ones, (-1.0, -1.0), ones)
    limits = Limits(NAMES, action.low, action.high, None, (-0.5, -0.5), (0.5, 0.5))
    return Commands(action, "joint_trajectory", PERIOD, limits)


def places(message):
    return np.array([point.positions for point in message.points])


def test_a_trajectory_ends_standing_still_a_step_after_the_control_step(commands):
    message = commands.message(0, np.array([0.2, -0.4]), True, np.zeros(2))
    assert places(message) == pytest.approx(np.array([[0.01, -0.02], [0.015, -0.03]]))
    assert [list(p.velocities) for p in message.points] == [[0.2, -0.4], [0.0, 0.0]]
    assert [p.time_from_start.nanosec for p in message.points] == [50_000_000, 100_000_000]


@pytest.mark.fault
def test_fault_14_no_point_of_a_trajectory_lies_outside_the_position_limits(commands):
    """The joints lag a step or two behind what was commanded; what they measure does not say it all."""
    measured, sent = np.array([0.45, 0.0]), []
    for _ in range(20):
        message = commands.message(0, np.array([1.0, 0.1]), True, measured)
        sent.append(places(message))
        measured = sent[-3][0] if len(sent) > 2 else measured
    assert np.max(sent) == 0.5
    assert list(message.points[0].velocities) == [0.0, 0.1]


@pytest.mark.fault
def test_fault_14_a_joint_outside_its_limits_is_held_and_may_only_come_back(commands):
    outside = np.array([0.6, 0.0])
    assert places(commands.message(0, np.zeros(2), False, outside))[:, 0].tolist() == [0.6, 0.6]
    assert places(commands.message(0, np.array([1.0, 0.0]), True, outside))[:, 0].max() == 0.6
    back = commands.message(0, np.array([-1.0, 0.0]), True, outside)
    assert places(back)[:, 0] == pytest.approx([0.55, 0.525])
