"""The path that a plan of twists leads along: poses of the tool or base, by integration.

A pose is (7,): position x, y, z in m and orientation x, y, z, w.
"""

from collections.abc import Sequence

import numpy as np

AXES = ("linear_x", "linear_y", "linear_z", "angular_x", "angular_y", "angular_z")
ORIGIN = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])


def twist_path(
    names: Sequence[str], actions: np.ndarray, period: float, start: np.ndarray = ORIGIN, moving: bool = False
) -> np.ndarray:
    """Return the poses (..., steps + 1, 7) that actions (..., steps, dim) lead through from ``start`` (7,).

    ``names`` are those of the actions, in m/s and rad/s, each held for ``period`` seconds. The frame of the
    twist is fixed, such as the base of an arm; or it is ``moving`` with the robot, such as base_link.
    """
    twists = np.zeros((*actions.shape[:-1], len(AXES)))
    twists[..., [AXES.index(name) for name in names]] = actions
    steps = actions.shape[-2]
    poses = np.empty((*actions.shape[:-2], steps + 1, 7))
    poses[..., 0, :] = start
    for k in range(steps):
        linear, turn = twists[..., k, :3] * period, _rotation(twists[..., k, 3:] * period)
        place, facing = poses[..., k, :3], poses[..., k, 3:]
        if moving:
            # half of the turn: the mean heading during the step
            heading = _product(facing, _rotation(twists[..., k, 3:] * period / 2))
            linear = _rotated(heading, linear)
            facing = _product(facing, turn)
        else:
            facing = _product(turn, facing)
        poses[..., k + 1, :3] = place + linear
        poses[..., k + 1, 3:] = facing / np.linalg.norm(facing, axis=-1, keepdims=True)
    return poses


def _rotation(vector: np.ndarray) -> np.ndarray:
    """Return quaternions (..., 4) of rotation vectors (..., 3)."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    # sinc is sin(pi x) / (pi x), and 1 at zero
    return np.concatenate([vector / 2 * np.sinc(angle / 2 / np.pi), np.cos(angle / 2)], axis=-1)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the product (..., 4) of quaternions: first ``b`` is applied, then ``a``."""
    vector = a[..., 3:] * b[..., :3] + b[..., 3:] * a[..., :3] + np.cross(a[..., :3], b[..., :3])
    scalar = a[..., 3:] * b[..., 3:] - (a[..., :3] * b[..., :3]).sum(-1, keepdims=True)
    return np.concatenate([vector, scalar], axis=-1)


def _rotated(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    axis, scalar = quaternion[..., :3], quaternion[..., 3:]
    twice = 2 * np.cross(axis, vector)
    return vector + scalar * twice + np.cross(axis, twice)
