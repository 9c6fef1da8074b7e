"""What the model expects to see next, and how far off it was: surprise."""

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.normalisation import normalise
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.lewm import LeWorldModel


class OneStepPrediction:
    """One-step prediction along a run, from a full history: what the surprise threshold is calibrated on."""

    def __init__(self, model: LeWorldModel, spec: CheckpointSpec):
        self.model, self.spec = model, spec
        self._latents: list[Tensor] = []
        self._blocks: list[Tensor] = []

    def reset(self) -> None:
        """Begin a new history."""
        self._latents, self._blocks = [], []

    @torch.inference_mode()
    def step(self, latent: np.ndarray, executed: np.ndarray | None) -> float | None:
        """Return the squared L2 between this latent (D,) and the expected one; None without a history.

        executed (block, dim), physical units: what was done since the latent before; None after a gap.
        """
        seen = torch.from_numpy(np.asarray(latent, np.float32))
        error = None
        if executed is None:
            self.reset()
        else:
            block = normalise(np.asarray(executed, np.float32).reshape(-1), self.spec.action)
            self._blocks = [*self._blocks, torch.from_numpy(block)][-self.spec.history :]
            if len(self._latents) == len(self._blocks) == self.spec.history:
                history = torch.stack(self._latents)[None], torch.stack(self._blocks)[None]
                error = float((self.model.predict(*history)[0, -1] - seen).square().sum())
        self._latents = [*self._latents, seen][-self.spec.history :]
        self._blocks = self._blocks[-len(self._latents) :]
        return error
