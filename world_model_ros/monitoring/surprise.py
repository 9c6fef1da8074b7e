"""Surprise: how far a latent is from the one that the model predicts for it, one step ahead.

Calibration (training/calibrate.py), evaluation and monitor_node all use this implementation.
"""

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.normalisation import normalise
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.lewm import LeWorldModel


@torch.inference_mode()
def one_step_errors(model: LeWorldModel, latents: Tensor, blocks: Tensor) -> Tensor:
    """Return the squared L2 errors (B,) of the last latents, predicted from those before, on the CPU.

    latents (B, history + 1, D), blocks (B, history, A) z-scored, block t leaving latent t; the model is in
    evaluation mode.
    """
    predicted = model.predict(latents[:, :-1], blocks)[:, -1]
    return (predicted.cpu() - latents[:, -1].cpu()).square().sum(-1)


class OneStepError:
    """The one-step error along a run, latent by latent."""

    def __init__(self, model: LeWorldModel, spec: CheckpointSpec):
        self.model, self.spec = model, spec
        self._latents: list[Tensor] = []
        self._blocks: list[Tensor] = []

    def reset(self) -> None:
        """Begin a new history."""
        self._latents, self._blocks = [], []

    def step(self, latent: np.ndarray, executed: np.ndarray | None) -> float | None:
        """Return the squared L2 between this latent (D,) and its prediction; None without a full history.

        executed (block, dim), physical units: what was done since the latent before; None after a gap.
        """
        if executed is None or not self._latents:
            self.reset()
        else:
            block = normalise(np.asarray(executed, np.float32).reshape(-1), self.spec.action)
            self._blocks = [*self._blocks, torch.from_numpy(block)][-self.spec.history :]
        self._latents = [*self._latents, torch.from_numpy(np.asarray(latent, np.float32))]
        self._latents = self._latents[-self.spec.history - 1 :]
        if len(self._blocks) < self.spec.history:
            return None
        latents, blocks = torch.stack(self._latents)[None], torch.stack(self._blocks)[None]
        return float(one_step_errors(self.model, latents, blocks))
