"""Limits of the actions that may leave the command side."""

import math

import numpy as np

from world_model_ros.errors import UserError


class Limits:
    """Lowest and highest action of one control step, one entry per named dimension, physical units."""

    def __init__(self, names, low, high):
        self.names = tuple(names)
        self.low = np.asarray(low, np.float64)
        self.high = np.asarray(high, np.float64)
        if not self.names or self.low.shape != self.high.shape or self.low.shape != (len(self.names),):
            raise UserError(
                f"action limits low {list(low)}, high {list(high)} do not fit the actions {list(self.names)}."
            )
        for name, lowest, highest in zip(self.names, self.low, self.high, strict=True):
            if not (math.isfinite(lowest) and math.isfinite(highest) and lowest < highest):
                raise UserError(f"the limits of {name} are [{lowest}, {highest}]: low must be below high.")
            if not lowest <= 0.0 <= highest:
                raise UserError(f"the limits of {name} are [{lowest}, {highest}]: standing still must be in.")

    def clamp(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return the action (dim,) inside the limits, and whether it had to be changed.

        Raises ValueError for another shape or numbers that are not finite.
        """
        action = np.asarray(action, np.float64)
        if action.shape != self.low.shape:
            raise ValueError(f"an action has shape {self.low.shape}, this one {action.shape}")
        if not np.isfinite(action).all():
            raise ValueError("the action is not finite")
        clamped = np.clip(action, self.low, self.high)
        return clamped, bool((clamped != action).any())
