"""Where a position interface is told to go: never toward a place that the joints were moved away from."""

import numpy as np
import pytest

from world_model_ros.safety.limits import Limits
from world_model_ros.safety.poses import LEASH, PoseKeeper

STILL = np.zeros(2)
START = np.array([0.5, -1.0])


@pytest.fixture
def keeper():
    return PoseKeeper(Limits(("a", "b"), (-0.4, -0.2), (0.4, 0.2), None, (-3, -3), (3, 3)), 0.05)


@pytest.mark.fault
def test_fault_48_an_arm_that_is_moved_by_hand_stays_where_it_was_moved(keeper):
    keeper.poses(STILL, False, START)
    for moved in np.linspace(0, 0.5, 40):
        measured = START + moved
        poses = keeper.poses(STILL, False, measured)
        assert np.abs(poses.end - measured).max() <= 0.4 * 0.05
    assert poses.end.tolist() == pytest.approx(START + 0.5, abs=0.02)
    poses = keeper.poses(STILL, False, START - 0.5)  # in a step
    assert (poses.end == START - 0.5).all()
    assert (poses.last == START - 0.5).all()


def test_a_joint_that_sinks_a_little_under_a_load_is_held_where_it_was(keeper):
    keeper.poses(STILL, False, START)
    for sunk in (0.001, 0.004, 0.009):
        assert (keeper.poses(STILL, False, START - sunk).end == START).all()


@pytest.mark.fault
def test_fault_48_a_plan_after_that_goes_on_from_where_the_arm_is(keeper):
    keeper.poses(np.array([0.4, 0.0]), True, START)
    keeper.poses(STILL, False, START)
    poses = keeper.poses(np.array([0.4, 0.0]), True, START + 0.5)
    assert poses.end == pytest.approx(START + 0.5 + [0.02, 0.0])


@pytest.mark.fault
def test_fault_48_what_is_not_measured_is_forgotten(keeper):
    keeper.poses(STILL, False, START)
    assert keeper.poses(STILL, False, None) is None
    assert (keeper.poses(STILL, False, START + 0.001).end == START + 0.001).all()
    keeper.reset()
    assert (keeper.poses(STILL, False, START).end == START).all()


def test_while_a_plan_is_played_the_poses_are_on_a_leash(keeper):
    for _ in range(100):
        poses = keeper.poses(np.array([0.4, 0.2]), True, START)
        assert (poses.last - START <= np.array([0.4, 0.2]) * (LEASH + 0.075) + 1e-12).all()
