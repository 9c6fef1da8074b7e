"""The loss: prediction plus one regulariser (LeWorldModel, arXiv 2603.19312, 3)."""

from typing import NamedTuple

from torch import Tensor

from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.model.sigreg import sigreg


class FrameDropMonitor(NamedTuple):
    """``total`` = ``prediction`` + weight * ``sigreg``, and the latents (B, T, D) they came from."""

    total: Tensor
    prediction: Tensor
    sigreg: Tensor
    latents: Tensor


def training_loss(
    model: LeWorldModel, pixels: Tensor, blocks: Tensor, directions: Tensor, weight: float
) -> FrameDropMonitor:
    """Return the losses of clips: pixels (B, T, 3, H, W) normalised, blocks (B, T, A), T = history + 1.

    The error is the mean square over all predicted positions; gradients flow through the prediction and
    through its target. The block leaving the last frame is not used.
    """
    latents = model.encode(pixels)
    predicted = model.predict(latents[:, :-1], blocks[:, :-1])
    prediction = (predicted.float() - latents[:, 1:].float()).square().mean()
    regulariser = sigreg(latents.transpose(0, 1), directions)
    return FrameDropMonitor(prediction + weight * regulariser, prediction, regulariser, latents)
