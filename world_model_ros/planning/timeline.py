"""Stamped latents and stamped executed actions become model steps.

The grid: model step k starts at t0 + k * block * period, t0 being the stamp of the first latent.
Times are integer nanoseconds on one clock; nothing here looks at a clock.
"""

from dataclasses import dataclass

import numpy as np

from world_model_ros.planning.action_buffer import ActionBuffer

KEPT_BLOCKS = 8


@dataclass(frozen=True)
class ModelStep:
    """What the planner is asked at the start of model step ``index``."""

    index: int
    start: int  # ns, when its block begins
    due: int  # ns, when the block planned now begins
    latent: np.ndarray  # (D,)
    executed: np.ndarray | None  # (block, dim) since the latent of index - 1; None after a gap
    running: np.ndarray  # (block, dim) from ``start`` on


class Timeline:
    """Turns what arrives, in whatever order, into one ModelStep per block."""

    def __init__(self, period: int, block: int, dim: int, buffer: ActionBuffer):
        self.period = period
        self.block = block
        self.dim = dim
        self.buffer = buffer  # the plans sent to the command side
        self.reset()

    def reset(self) -> None:
        """Forget everything, the plans too: the next latent begins a new grid."""
        self.origin: int | None = None
        self.index = -1
        self.executed: dict[int, np.ndarray] = {}
        self.newest: int | None = None
        self.buffer.clear()

    def add_executed(self, stamp: int, action: np.ndarray) -> None:
        """Take what went out in the control step that began at ``stamp``, action (dim,)."""
        action = np.asarray(action, np.float64)
        if action.shape != (self.dim,) or not np.isfinite(action).all():
            raise ValueError(f"an executed action is {self.dim} finite numbers, this one is {action}")
        self.executed[stamp] = action
        oldest = stamp - KEPT_BLOCKS * self.block * self.period
        self.executed = {at: kept for at, kept in self.executed.items() if oldest <= at <= stamp}

    def add_latent(self, stamp: int, latent: np.ndarray) -> ModelStep | None:
        """Return the model step that this latent (D,) starts, or None when it starts none.

        A latent starts step k when its stamp is within half a control step of the grid and k is new.
        A stamp that lies more than a block back means that time was set back: everything is forgotten.
        """
        length = self.block * self.period
        if self.newest is not None and stamp < self.newest - length:
            self.reset()
        if self.origin is None:
            self.origin = stamp
        self.newest = stamp if self.newest is None else max(stamp, self.newest)
        index = (stamp - self.origin + length // 2) // length
        start = self.origin + index * length
        if index <= self.index or 2 * abs(stamp - start) > self.period:
            return None
        follows = index == self.index + 1 and index > 0
        self.index = index
        step = ModelStep(
            index=index,
            start=start,
            due=start + length,
            latent=latent,
            executed=self._executed_block(start - length) if follows else None,
            running=self._commanded_block(start),
        )
        self.buffer.forget_before(start)
        return step

    def _executed_block(self, start: int) -> np.ndarray:
        """Return (block, dim): what went out, else what was commanded, else standing still."""
        steps = {(at - start + self.period // 2) // self.period: row for at, row in self.executed.items()}
        block = self._commanded_block(start)
        for i in range(self.block):
            if i in steps:
                block[i] = steps[i]
        return block

    def _commanded_block(self, start: int) -> np.ndarray:
        block = np.zeros((self.block, self.dim))
        for i in range(self.block):
            action = self.buffer.action_at(start + i * self.period)
            if action is not None:
                block[i] = action
        return block
