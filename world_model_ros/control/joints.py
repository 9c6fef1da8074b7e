"""Joint states by name: their order is not guaranteed."""

from collections import Counter

import numpy as np


def match_joints(wanted, names, values, topic: str = "joint_states") -> np.ndarray:
    """Return what ``values`` say (len(wanted),) of the wanted joints, such as their positions.

    Raises ValueError when one is missing, named twice or not finite; others are ignored.
    """
    names = list(names)
    if len(names) != len(values):
        raise ValueError(f"{topic} has {len(names)} names and {len(values)} values")
    counts, by_name = Counter(names), dict(zip(names, values, strict=True))
    for name in wanted:
        if counts[name] != 1:
            raise ValueError(f"{topic} has the joint {name} {counts[name]} times, once is needed")
    found = np.array([by_name[name] for name in wanted], np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{topic} holds numbers that are not finite")
    return found


def integrate(positions: np.ndarray, velocities: np.ndarray, period: float) -> np.ndarray:
    """Return the positions (steps, joints) at the end of each control step of ``velocities``."""
    return np.asarray(positions) + np.cumsum(np.asarray(velocities), axis=0) * period
