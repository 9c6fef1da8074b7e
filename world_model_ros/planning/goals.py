"""Which goal is being planned towards, and whether one that comes is another."""

import numpy as np


class GoalInUse:
    """One goal latent (D,), or None before there is one."""

    def __init__(self):
        self.latent: np.ndarray | None = None
        self._ended = False

    def take(self, latent: np.ndarray) -> bool:
        """Take a goal and return True; the one in use changes nothing, however often it comes.

        After ``end`` it counts again.
        """
        if not self._ended and self.latent is not None and np.array_equal(latent, self.latent):
            return False
        self.latent, self._ended = np.array(latent), False
        return True

    def end(self) -> None:
        """Note that planning has ended: it made no progress, or was switched off."""
        self._ended = True
