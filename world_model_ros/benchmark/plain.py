"""The rollout as the paper writes it, without any saving: what the fast one must equal."""

import torch
from torch import Tensor

from world_model_ros.model.lewm import LeWorldModel


def plain_rollout(
    model: LeWorldModel, latents: Tensor, history_actions: Tensor, candidates: Tensor
) -> Tensor:
    """Return what ``model.rollout`` returns, by predicting every window anew; shapes as there."""
    batch, samples, horizon, _ = candidates.shape
    context = latents.shape[1]
    frames = latents.repeat_interleave(samples, 0)
    actions = torch.cat([history_actions.repeat_interleave(samples, 0), candidates.flatten(0, 1)], dim=1)
    for _ in range(horizon):
        end = frames.shape[1]
        start = max(0, end - model.config.history)
        following = model.predict(frames[:, start:end], actions[:, start:end])[:, -1:]
        frames = torch.cat([frames, following], dim=1)
    return frames[:, context:].unflatten(0, (batch, samples))
