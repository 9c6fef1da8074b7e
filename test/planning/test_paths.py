"""Twists become poses."""

import numpy as np
import pytest

from world_model_ros.planning.paths import ORIGIN, twist_path

PERIOD = 0.05


def pose(x, y, z, yaw=0.0):
    return np.array([x, y, z, 0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])


def test_a_translation_begins_at_the_tool_and_keeps_its_orientation():
    start = pose(0.5, -0.1, 0.2, yaw=1.0)
    path = twist_path(("linear_x", "linear_y"), np.tile([0.2, -0.4], (10, 1)), PERIOD, start)
    assert path.shape == (11, 7)
    np.testing.assert_allclose(path[0], start)
    np.testing.assert_allclose(path[-1], pose(0.6, -0.3, 0.2, yaw=1.0), atol=1e-12)


def test_a_base_that_turns_while_it_drives_follows_a_circle():
    # radius v / w = 0.5 m; a half turn ends on the other side
    steps = 200
    actions = np.tile([0.5, 1.0], (steps, 1))
    path = twist_path(("linear_x", "angular_z"), actions, np.pi / steps, moving=True)
    np.testing.assert_allclose(path[-1], pose(0.0, 1.0, 0.0, yaw=np.pi), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(path[:, :2] - [0.0, 0.5], axis=1), 0.5, atol=1e-4)


def test_in_a_fixed_frame_a_turn_does_not_change_where_the_tool_goes():
    actions = np.tile([0.5, 1.0], (20, 1))
    path = twist_path(("linear_x", "angular_z"), actions, PERIOD)
    np.testing.assert_allclose(path[-1], pose(0.5, 0.0, 0.0, yaw=1.0), atol=1e-12)


@pytest.mark.parametrize("moving", [False, True])
def test_turns_about_all_axes_stay_rotations(moving):
    rng = np.random.default_rng(0)
    names = ("angular_x", "angular_y", "angular_z")
    path = twist_path(names, rng.normal(0, 20, (3, 50, 3)), PERIOD, moving=moving)
    assert path.shape == (3, 51, 7)
    np.testing.assert_allclose(np.linalg.norm(path[..., 3:], axis=-1), 1.0, atol=1e-12)
    # about one axis a turn is the same from outside and from inside
    first = twist_path(names, np.tile([0.0, 2.0, 0.0], (10, 1)), PERIOD, moving=moving)
    np.testing.assert_allclose(first[-1, 3:], [0.0, np.sin(0.5), 0.0, np.cos(0.5)], atol=1e-12)


def test_an_empty_plan_stays_where_it_is():
    assert np.array_equal(twist_path(("linear_x",), np.zeros((0, 1)), PERIOD), [ORIGIN])
