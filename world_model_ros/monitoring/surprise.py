"""Surprise: the squared error of the one-step prediction of a latent.

Its threshold is the 99.9th percentile on held-out clips, computed by training/calibrate.py and stored in the
checkpoint; monitoring/anomaly.py (AnomalyMonitor) compares with it and asks for a standstill.
"""

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.normalisation import normalise
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.lewm import LeWorldModel


def surprise(model: LeWorldModel, latents: Tensor, blocks: Tensor, following: Tensor) -> Tensor:
    """Return the squared L2 (N,) between the latents that followed (N, D) and the predicted ones.

    latents (N, history, D); blocks (N, history, block * dim): z-scores of the actions after each of them.
    """
    return (model.predict(latents, blocks)[:, -1] - following).square().sum(-1)


class OneStepPrediction:
    """The surprise of one model step after the other, each from a full history."""

    def __init__(self, model: LeWorldModel, spec: CheckpointSpec):
        self.model, self.spec = model, spec
        self.reset()

    def reset(self) -> None:
        """Begin a new history."""
        self._latents: list[Tensor] = []
        self._blocks: list[Tensor] = []

    @property
    def context(self) -> tuple[list[Tensor], list[Tensor]]:
        """The latents (D,) that are known, oldest first, and the z-scored blocks done between them."""
        return self._latents, self._blocks[len(self._blocks) - len(self._latents) + 1 :]

    def correct(self, blocks: list[Tensor]) -> None:
        """Replace the last blocks that are known by these (block * dim,), z-scored, the newest last."""
        count = min(len(blocks), len(self._blocks))
        self._blocks = [*self._blocks[: len(self._blocks) - count], *blocks[len(blocks) - count :]]

    @torch.inference_mode()
    def step(self, latent: np.ndarray, executed: np.ndarray | None) -> float | None:
        """Return the surprise of this latent (D,); None without a full history.

        executed (block, dim), physical units: what was sent since the latent before; None after a gap.
        """
        seen = torch.from_numpy(np.asarray(latent, np.float32))
        error = None
        if executed is None:
            self.reset()
        else:
            block = normalise(np.asarray(executed, np.float32).reshape(-1), self.spec.action)
            self._blocks = [*self._blocks, torch.from_numpy(block)][-self.spec.history :]
            if len(self._latents) == len(self._blocks) == self.spec.history:
                latents, blocks = torch.stack(self._latents)[None], torch.stack(self._blocks)[None]
                error = float(surprise(self.model, latents, blocks, seen[None])[0])
        self._latents = [*self._latents, seen][-self.spec.history :]
        self._blocks = self._blocks[-len(self._latents) :]
        return error
