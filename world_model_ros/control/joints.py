"""Joint states by name: their order is not guaranteed."""

import numpy as np


def match_joints(wanted, names, positions) -> np.ndarray:
    """Return the positions (len(wanted),) of the wanted joints.

    Raises ValueError when one is missing, named twice or not finite; others are ignored.
    """
    names = list(names)
    if len(names) != len(positions):
        raise ValueError(f"joint_states has {len(names)} names and {len(positions)} positions")
    for name in wanted:
        if names.count(name) != 1:
            raise ValueError(f"joint_states has the joint {name} {names.count(name)} times, once is needed")
    found = np.array([positions[names.index(name)] for name in wanted], np.float64)
    if not np.isfinite(found).all():
        raise ValueError("joint_states holds positions that are not finite")
    return found


def integrate(positions: np.ndarray, velocities: np.ndarray, period: float) -> np.ndarray:
    """Return the positions (steps, joints) at the end of each control step of ``velocities``."""
    return np.asarray(positions) + np.cumsum(np.asarray(velocities), axis=0) * period
