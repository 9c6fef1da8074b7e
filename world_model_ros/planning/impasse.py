"""What the planner does where plan after plan promises to come nearer to the goal and nothing comes of it.

Each plan is made anew from what is seen, but by the same model: where it is wrong about what a push does, it
is wrong again, and the robot repeats what does not work, or stands still because nothing seems better. From
another place it sees the object from another side, and pushes elsewhere.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from world_model_ros.errors import NoPlanError
from world_model_ros.planning.cem import Limits, Noise
from world_model_ros.planning.objective import Metric, WorldModel

AWAY = 4  # model steps of moving elsewhere
SAMPLES = 96  # of ways to do that
CORRELATION = 0.95  # of their neighbouring control steps: they shall lead somewhere


class Impasse:
    """Notices that the distance to the goal has not become smaller for ``steps`` model steps; 0: never."""

    def __init__(self, steps: int, least: float):
        self.steps, self.least = steps, least  # the latter: by how much it must become smaller to count
        self.reset()

    def reset(self) -> None:
        """Begin with a new goal."""
        self._best, self._since = float("inf"), 0

    def step(self, distance: float, counts: bool) -> bool:
        """Take the distance after one more model step; return whether the robot is to move elsewhere now.

        Where the step does not count there is no impasse.
        """
        if distance < self._best - self.least:
            self._best, self._since = distance, 0
            return False
        self._since += counts
        if not self.steps or not counts or self._since < self.steps:
            return False
        self._since = 0
        return True


class Surprises:
    """Notices that what the robot did led elsewhere than expected, ``steps`` times in a row; 0: never.

    Such as an object that is pressed against something and does not move: pushed again, it does so again, and
    monitor_node keeps the robot still each time.
    """

    def __init__(self, steps: int, bound: float | None):
        self.steps = steps if bound is not None else 0
        self.bound = bound  # of the squared error of an expected latent that counts as a surprise
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._count = 0
        self._expected: tuple[np.ndarray, Tensor] | None = None

    def expect(self, running: np.ndarray | None, latent: Tensor) -> None:
        """Take the latent (D,) that is expected after the block (block, dim) that is running now."""
        self._expected = None if running is None else (np.array(running), latent)

    def step(self, latent: Tensor, executed: np.ndarray | None) -> bool:
        """Take what came (D,) and was executed (block, dim); return whether to move elsewhere now.

        Where something else was executed than what was running, nothing was expected.
        """
        expected, self._expected = self._expected, None
        if not self.steps or expected is None or executed is None or not np.any(executed):
            return False
        running, imagined = expected
        if running.shape != executed.shape or not np.allclose(running, executed, rtol=0.0, atol=1e-3):
            return False
        surprised = float((imagined - latent).square().sum()) > self.bound
        self._count = self._count + 1 if surprised else 0
        if self._count < self.steps:
            return False
        self._count = 0
        return True


def moves_elsewhere(
    models: Sequence[WorldModel],
    latents: Tensor,
    past: Tensor,
    goal: Tensor,
    metric: Metric,
    least: float,
    limits: Limits,
    block: int,
    generator: torch.Generator,
) -> Tensor:
    """Return blocks (AWAY, A) that change the latent most and, as all models imagine, the distance least.

    latents (1, T, D) and past (1, T - 1, A) are the context, goal (D,) the goal's latent, limits the lowest
    and highest z-scored action block (A,) of ``block`` control steps. No imagined distance to the goal may
    exceed the present one by more than ``least``: the object stays where it is while the robot goes away from
    it. Where that cannot be, the blocks are those of the smallest increase. Raises NoPlanError where no
    imagined future is finite.
    """
    noise = Noise([generator], (SAMPLES, AWAY, len(limits[0])), block, CORRELATION)
    candidates = noise().clamp(*limits)
    imagined = [model.rollout(latents, past, candidates) for model in models]
    worst = torch.stack([metric(future, goal)[0].amax(-1) for future in imagined]).amax(0)
    moved = (imagined[0][0, :, -1] - latents[0, -1]).square().sum(-1)
    now = metric(latents[:, -1], goal[None])[0]
    rank = torch.where(worst <= now + least, moved, -worst)
    best = torch.where(rank.isfinite(), rank, -torch.inf).argmax()
    if not rank[best].isfinite():
        raise NoPlanError("no way elsewhere has a finite cost: the model or the latent is broken")
    return candidates[0, best]
