"""What a model imagines, made visible: for every imagined latent the nearest one of real frames.

That is a look-up among frames of other episodes, no decoder: what no frame shows cannot appear.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.errors import UserError
from world_model_ros.evaluation.recordings import (
    LENGTH,
    Recording,
    all_frames,
    encode_frames,
    fresh_recordings,
    held_out_split,
    per_recording,
    read_recordings,
)
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.lewm import LeWorldModel

STEPS = 8  # model steps
SHOWN = 3  # episodes
BANK = 2000  # frames to look up in
_SEED = 750_000_000  # of fresh episodes: none that `collect` or another evaluation records


@dataclass(frozen=True)
class Dream:
    """An episode as it was and as it was imagined; frames uint8 (H, W, 3)."""

    real: list[np.ndarray]  # K + 1, the last frame the model saw first
    nearest_real: list[np.ndarray]  # K + 1, the nearest to the latents of these
    nearest_imagined: list[np.ndarray]  # K
    ratio: list[float]  # K, squared error of the imagined latent over that of copying


def episodes_to_imagine(spec: CheckpointSpec, task: str, data: Path | None) -> tuple[list[Recording], str]:
    """Return episodes the model was not trained on, and what they are.

    Held-out ones of ``data``, the file of the training, or fresh ones. UserError where the file cannot be
    that of the training or holds out too few.
    """
    wanted = SHOWN + -(-BANK // LENGTH)
    if data is None:
        return fresh_recordings(task, spec, wanted, _SEED), "fresh episodes of the scripted explorer"
    with EpisodeFile(data) as file:
        _, held_out = held_out_split(spec, file)
        if len(held_out) < 2 * SHOWN:
            raise UserError(
                f"{data} holds out only {len(held_out)} episodes: leave out --data for fresh ones."
            )
        return read_recordings(file, held_out[:wanted], spec, task), f"held-out episodes of {data.name}"


def encode_recordings(model: LeWorldModel, spec: CheckpointSpec, recordings: list[Recording]) -> list[Tensor]:
    """Return the latents (T, D) of every recording."""
    return per_recording(encode_frames(model, all_frames(recordings), spec), recordings)


def dream(
    model: LeWorldModel,
    spec: CheckpointSpec,
    recordings: list[Recording],
    latents: list[Tensor],
    shown: int = SHOWN,
    steps: int = STEPS,
) -> list[Dream]:
    """Imagine the first ``shown`` recordings, looked up in the frames of the others.

    Each from the moment on in which most happens in the ``steps`` that follow: where the real latents move
    farthest from the last one seen. Recordings that are too short are left out.
    """
    frames, bank = all_frames(recordings[shown:])[:BANK], torch.cat(latents[shown:])[:BANK]
    dreams = []
    for recording, z in zip(recordings[:shown], latents[:shown], strict=True):
        starts = range(len(z) - spec.history - steps + 1)
        if not starts:
            continue
        moved = [(z[s + spec.history :][:steps] - z[s + spec.history - 1]).square().sum() for s in starts]
        dreams.append(_dream(model, spec, recording, z, int(np.argmax(moved)), steps, frames, bank))
    return dreams


def _dream(model, spec, recording, z, start, steps, frames, bank) -> Dream:
    now = start + spec.history - 1  # the last frame that the model sees
    blocks = torch.from_numpy(recording.blocks[start : now + steps])[None]
    with torch.inference_mode():
        imagined = model.rollout(
            z[None, start : now + 1], blocks[:, : spec.history - 1], blocks[:, None, spec.history - 1 :]
        )[0, 0]
    future = z[now + 1 : now + 1 + steps]
    error, copy = (imagined - future).square().sum(-1), (z[now] - future).square().sum(-1)
    return Dream(
        real=list(recording.pixels[now : now + 1 + steps]),
        nearest_real=_nearest(z[now : now + 1 + steps], frames, bank),
        nearest_imagined=_nearest(imagined, frames, bank),
        ratio=(error / copy.clamp_min(1e-12)).tolist(),
    )


def _nearest(latents: Tensor, frames: np.ndarray, bank: Tensor) -> list[np.ndarray]:
    return [frames[i] for i in torch.cdist(latents, bank).argmin(1).tolist()]
