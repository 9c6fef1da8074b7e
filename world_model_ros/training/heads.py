"""What a world model gets after its own training: small heads on its frozen latents."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.clips import Clips
from world_model_ros.model.checkpoint import round_weights
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.training import inverse_dynamics, temporal
from world_model_ros.training.metrics import encode_frames

FRAMES = 60_000  # of the training episodes, encoded for the heads


def add_heads(
    model: LeWorldModel,
    spec: CheckpointSpec,
    clips: Clips,
    held_out: Clips,
    steps: dict[str, int],
    seed: int,
    stored: str,
) -> tuple[CheckpointSpec, dict[str, float]]:
    """Give ``model`` its heads, rounded as ``stored``; return the spec with them and held-out figures.

    ``steps`` has those of the fits, "temporal" and "inverse", 0 for no such head.
    """
    if not any(steps.values()):
        return spec, {}
    latents, blocks, lengths = _by_episode(model, clips, spec)
    unseen = _by_episode(model, held_out, spec)
    figures, widths = {}, {}
    if steps["temporal"]:
        head = temporal.fit_temporal_distance(latents, lengths, steps["temporal"], seed)
        model.temporal = _stored(head, stored, model)
        figures.update(temporal.temporal_figures(head, unseen[0], unseen[2]))
        widths["temporal_hidden"] = temporal.HIDDEN
    if steps["inverse"]:
        head = inverse_dynamics.fit_inverse_dynamics(latents, blocks, lengths, steps["inverse"], seed)
        model.inverse = _stored(head, stored, model)
        figures.update(inverse_dynamics.inverse_dynamics_figures(head, *unseen))
        widths["inverse_hidden"] = inverse_dynamics.HIDDEN
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, **widths)), figures


def _stored(head: torch.nn.Module, stored: str, model: LeWorldModel) -> torch.nn.Module:
    head.load_state_dict(round_weights(head.state_dict(), stored))
    return head.to(next(model.parameters()).device)


def _by_episode(model: LeWorldModel, clips: Clips, spec: CheckpointSpec) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return latents (N, D), the blocks (N, A) leaving them and the episodes' lengths, in model steps.

    Of the first episodes, as many as have ``FRAMES`` frames, at least two.
    """
    rows, lengths = clips.model_steps()
    kept = np.cumsum(lengths) <= FRAMES
    kept[:2] = True
    rows = rows[: lengths[kept].sum()]
    # the last block of an episode may reach past its end: nobody uses it
    blocks = torch.from_numpy(np.nan_to_num(clips.blocks[rows]))
    return encode_frames(model, clips.pixels[rows], spec.image), blocks, lengths[kept]
