"""How much older the camera's pictures are than their stamps say, told by the predictor's errors.

Drivers often stamp a picture when it arrives, some tens of milliseconds after it was taken. What such a
picture shows was done by actions that were sent earlier, and a plan that starts from it repeats those that
are under way. The predictor tells: of the actions that were sent, those of the right time lead to what is
seen. A latency that was there when the model's data were recorded is part of the model, and is not counted.
"""

from collections.abc import Sequence

import numpy as np
import torch

from world_model_ros.data.normalisation import normalise
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.lewm import LeWorldModel

FLOOR = 0.05  # of the surprise threshold: errors below it say nothing
EVIDENCE = 1.5  # sum of log ratios of errors by which another latency must be better than the present one
STILL = 0.5  # of the error of standing still: above it the robot did not do what was sent
LARGEST = 1.25  # evidence of one model step: one alone proves nothing
MEMORY = 0.95  # of the evidence, from one model step to the next


class CameraLatency:
    """Estimates the latency in whole control steps, from 0 to one less than a model step has.

    Each possible latency has the one-step errors of the predictor, given the actions that were sent by that
    time; the logarithms of the errors are summed up. While nothing is sent they are the same for all. Where
    the robot does not do what is sent (a dry run, drives that are off, an arm that is stuck), the error of
    having stood still is the smallest, and the step counts as no evidence. A robot that moves some 15 % less
    far than the model expects can look like one that is seen late.
    """

    def __init__(self, model: LeWorldModel, spec: CheckpointSpec):
        self.model, self.spec = model, spec
        self.floor = None if spec.thresholds.surprise is None else FLOOR * spec.thresholds.surprise
        self.still = torch.from_numpy(normalise(np.zeros(spec.block * spec.action.dim), spec.action))
        self.reset()

    def reset(self) -> None:
        """Begin without evidence, at 0."""
        self.steps = 0  # control steps, the estimate
        self._scores = np.zeros(self.spec.block)
        self.forget()

    def forget(self) -> None:
        """Begin a new history; the estimate and its evidence stay."""
        self._latents: list[torch.Tensor] = []
        self._blocks: list[torch.Tensor] = []

    @property
    def past(self) -> list[torch.Tensor]:
        """The blocks (block * dim,) before the last one, z-scored, as they are by the estimate."""
        return [blocks[self.steps] for blocks in self._blocks[:-1]]

    @torch.inference_mode()
    def step(self, latent: np.ndarray, blocks: Sequence[np.ndarray] | None) -> int:
        """Take one more latent (D,), and return the estimate in control steps.

        blocks: for each latency, 0 first, the actions (block, dim) in physical units that were sent in the
        model step that ends that many control steps before the picture's stamp; None after a gap. Without a
        surprise threshold in the checkpoint the estimate stays 0.
        """
        seen = torch.from_numpy(np.asarray(latent, np.float32))
        if blocks is None or self.floor is None or not self._latents:
            self.forget()
        else:
            rows = np.asarray(blocks, np.float32).reshape(self.spec.block, -1)
            self._blocks = [*self._blocks, torch.from_numpy(normalise(rows, self.spec.action))]
            self._blocks = self._blocks[-len(self._latents) :]
            self._compare(seen)
        self._latents = [*self._latents, seen][-self.spec.history :]
        return self.steps

    def _compare(self, seen: torch.Tensor) -> None:
        blocks = torch.stack(self._blocks, dim=1)
        stood = torch.cat([blocks[self.steps, :-1], self.still[None]])
        latents = torch.stack(self._latents).expand(self.spec.block + 1, -1, -1)
        predicted = self.model.predict(latents, torch.cat([blocks, stood[None]]))[:, -1]
        errors = (predicted - seen).square().sum(-1).numpy().astype(np.float64) + self.floor
        if not np.isfinite(errors).all() or errors[:-1].min() > STILL * errors[-1]:
            return
        logarithms = np.log(errors[:-1])
        self._scores = MEMORY * self._scores + np.minimum(logarithms - logarithms.min(), LARGEST)
        best = int(self._scores.argmin())
        if self._scores[self.steps] - self._scores[best] > EVIDENCE:
            self.steps = best
