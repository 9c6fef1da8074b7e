"""What a world model gets after its own training: small heads on its frozen latents."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.clips import Clips
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.normalisation import action_spec, interface_of
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint, round_weights, save_checkpoint
from world_model_ros.model.config import CARD_NAME, CheckpointSpec, interface_differences
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.provenance import source_commit
from world_model_ros.training import inverse_dynamics, temporal
from world_model_ros.training.card import with_heads
from world_model_ros.training.metrics import encode_frames
from world_model_ros.training.split import split_episodes

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
    figures, widths, device = {}, {}, next(model.parameters()).device
    if steps["temporal"]:
        head = _rounded(temporal.fit_temporal_distance(latents, lengths, steps["temporal"], seed), stored)
        figures.update(temporal.temporal_figures(head, unseen[0], unseen[2]))
        model.temporal = head.to(device)
        widths["temporal_hidden"] = temporal.HIDDEN
    if steps["inverse"]:
        head = inverse_dynamics.fit_inverse_dynamics(latents, blocks, lengths, steps["inverse"], seed)
        head = _rounded(head, stored)
        figures.update(inverse_dynamics.inverse_dynamics_figures(head, *unseen))
        model.inverse = head.to(device)
        widths["inverse_hidden"] = inverse_dynamics.HIDDEN
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, **widths)), figures


def add_heads_later(
    checkpoint: Path,
    file: EpisodeFile,
    out: Path,
    steps: dict[str, int],
    command: str,
    stored: str,
    device: str = "cpu",
) -> dict[str, float]:
    """Write ``checkpoint`` with heads fitted to the data it was trained on; return their held-out figures.

    All other weights, thresholds and the card's text stay as they are; a head of which ``steps`` asks
    none stays too. The frames are encoded on ``device``. Raises UserError where ``file`` is not that of
    the training.
    """
    model, spec = load_checkpoint(checkpoint, device)
    noted = spec.training
    if not {"held_out_share", "seed"} <= noted.keys():
        raise UserError(f"{checkpoint} does not say which episodes it held out: train it with heads instead.")
    training, held_out = split_episodes(len(file), noted["held_out_share"], noted["seed"])
    if not _same_data(file, training, spec):
        raise UserError(
            f"{file.path} is not the data of {checkpoint}: its actions differ. Give the file it was "
            f"trained on ({noted.get('data', 'unknown')})."
        )
    frames, size = spec.history + 1, spec.image.size
    clips, unseen = (
        Clips(file, spec.action, spec.block, frames, episodes, size) for episodes in (training, held_out)
    )
    spec, figures = add_heads(model, spec, clips, unseen, steps, noted["seed"], stored)
    heads = {"command": command, "commit": source_commit()}
    noted = {**noted, "validation": {**noted.get("validation", {}), **figures}, "heads": heads}
    path = Path(checkpoint) / CARD_NAME
    card = with_heads(path.read_text(), heads, figures) if path.is_file() else None
    save_checkpoint(out, model, dataclasses.replace(spec, training=noted), card, dtype=stored)
    return figures


def _same_data(file: EpisodeFile, training: list[int], spec: CheckpointSpec) -> bool:
    found = action_spec(file, training)
    same = not interface_differences(spec.interface, interface_of(file), ("", ""))
    return same and all(
        np.allclose(getattr(found, name), getattr(spec.action, name), rtol=1e-4, atol=1e-5)
        for name in ("mean", "std", "low", "high")
    )


def _rounded(head: torch.nn.Module, stored: str) -> torch.nn.Module:
    head.load_state_dict(round_weights(head.state_dict(), stored))
    return head


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
