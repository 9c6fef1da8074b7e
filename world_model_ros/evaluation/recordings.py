"""Episodes as a model sees them, held in memory: held out of a training, or recorded afresh."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from world_model_ros.data.clips import split_episodes
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.normalisation import interface_of, normalise
from world_model_ros.data.together import EpisodeFiles
from world_model_ros.errors import UserError
from world_model_ros.model.config import CheckpointSpec, interface_differences
from world_model_ros.model.encoder import normalise_pixels
from world_model_ros.model.frames import resize_frame
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.monitoring.surprise import surprise
from world_model_ros.sim.collect import Recipe, record
from world_model_ros.sim.tasks import check_world, make_world

LENGTH = 21  # frames of a fresh episode, as `collect` records them by default
# Added to the seeds of evaluations, so that no episode is one that `collect` has recorded for training.
FRESH_IMAGINATION, FRESH_PROBING, FRESH_NORMAL = 600_000_000, 700_000_000, 800_000_000
FRESH_VIOLATIONS, FRESH_RISK = 900_000_000, 950_000_000


class Recording(NamedTuple):
    """An episode of T frames one model step apart."""

    pixels: np.ndarray  # uint8 (T, size, size, 3), of the model's image size
    blocks: np.ndarray  # float32 (T - 1, A), z-scored: the action block between two frames
    states: np.ndarray  # float32 (T, S); where a robot recorded no states, its proprio


def open_data(path: Path, spec: CheckpointSpec) -> EpisodeFiles:
    """Open a file as the training saw it: the first episodes, without the actions that were left out."""
    noted = spec.training
    return EpisodeFiles([path], noted.get("first_episodes"), noted.get("dropped_actions", ()))


def held_out_split(spec: CheckpointSpec, file: EpisodeFile | EpisodeFiles) -> tuple[list[int], list[int]]:
    """Return the episodes of ``file`` that the checkpoint was trained on, and those held out.

    Raises UserError where the file cannot be the one of the training.
    """
    noted = spec.training
    if not {"episodes", "held_out_share", "seed"} <= noted.keys():
        raise UserError("the checkpoint does not say which episodes it was trained on: leave out --data.")
    if noted["episodes"] != len(file):
        raise UserError(
            f"the checkpoint was trained on a file of {noted['episodes']} episodes, {file.path} has "
            f"{len(file)}: give the file of the training ({noted.get('data', 'unknown')}; put several "
            "together with `episodes merge`), or leave out --data for fresh episodes."
        )
    return split_episodes(len(file), noted["held_out_share"], noted["seed"])


def read_recordings(
    file: EpisodeFile | EpisodeFiles, episodes: list[int], spec: CheckpointSpec, task: str
) -> list[Recording]:
    """Read episodes, of every control step's frames those that a model step apart.

    ``task`` is "" for episodes that are of no simulated task. UserError where the file is of another task or
    timing.
    """
    attributes = file.attributes
    if task and attributes.get("task", task) != task:
        raise UserError(f"{file.path} is of the task {attributes['task']!r}, not of {task!r}.")
    file.assume(spec.interface)
    differing = interface_differences(
        spec.interface, interface_of(file), ("in the checkpoint", "in the file")
    )
    if differing:
        raise UserError(f"{file.path} does not fit the checkpoint: {'; '.join(differing)}.")
    stride, rest = divmod(spec.block, attributes["steps_per_row"])
    if rest:
        raise UserError(f"{file.path} lacks a frame at every model step of {spec.block} control steps.")
    recordings = []
    for episode in tqdm(episodes, desc="read", unit="episode", leave=False, disable=None):
        frames, actions = file.pixels(episode)[::stride], file.actions(episode)
        pixels = np.stack([resize_frame(frame, spec.image.size) for frame in frames])
        blocks = actions[: (len(frames) - 1) * stride].reshape(len(frames) - 1, stride * actions.shape[1])
        states = file.coordinates(episode)[::stride]
        recordings.append(Recording(pixels, normalise(blocks, spec.action), states))
    return recordings


def fresh_recordings(
    task: str, spec: CheckpointSpec, count: int, seed: int, length: int = LENGTH
) -> list[Recording]:
    """Record ``count`` explorer episodes of the simulator with the seed ``seed`` of `collect`."""
    with contextlib.closing(make_world(task)) as world:
        check_world(spec, task)
        recipe = Recipe(task, seed, length, world.image_size)
        bar = tqdm(range(count), desc=f"explore {task}", unit="episode", leave=False, disable=None)
        return [_as_seen(record(world, recipe, index), spec) for index in bar]


def _as_seen(recorded: tuple[np.ndarray, ...], spec: CheckpointSpec) -> Recording:
    pixels, actions, states, _ = recorded
    pixels = np.stack([resize_frame(frame, spec.image.size) for frame in pixels])
    return Recording(pixels, normalise(actions[:-1], spec.action), states)


@torch.inference_mode()
def encode_frames(model: LeWorldModel, frames: np.ndarray, spec: CheckpointSpec, batch: int = 128) -> Tensor:
    """Return the latents (N, D) of frames uint8 (N, size, size, 3), on the CPU."""
    device = next(model.parameters()).device
    parts = [
        model.encode(normalise_pixels(torch.from_numpy(frames[i : i + batch]).to(device), spec.image)).cpu()
        for i in range(0, len(frames), batch)
    ]
    return torch.cat(parts)


def per_recording(values: Tensor, recordings: list[Recording]) -> list[Tensor]:
    """Cut ``values`` (all frames, ...) of ``recordings`` in order into one tensor for each."""
    return list(values.split([len(r.pixels) for r in recordings]))


def all_frames(recordings: list[Recording]) -> np.ndarray:
    """Return the frames of all recordings in order, uint8 (N, size, size, 3)."""
    return np.concatenate([r.pixels for r in recordings])


@torch.inference_mode()
def one_step_errors(model: LeWorldModel, latents: Tensor, blocks: Tensor, history: int) -> Tensor:
    """Return squared L2 errors (N - history,) of every step predicted from a full history.

    latents (N, D) of one episode, blocks (N - 1, A). Entry i belongs to frame history + i.
    """
    if len(latents) <= history:
        return torch.zeros(0)
    past = latents[:-1].unfold(0, history, 1).movedim(-1, 1)  # (N - history, history, D)
    actions = blocks.unfold(0, history, 1).movedim(-1, 1)
    device = next(model.parameters()).device
    return surprise(model, past.to(device), actions.to(device), latents[history:].to(device)).cpu()
