"""Thresholds of a checkpoint: goal reached, surprise and range of latent norms, from held-out episodes.

And the range of light in the training's frames, which encoder_node compares with the camera's.
monitoring/anomaly.py (AnomalyMonitor) compares surprise and norms with them, planner_node the distance to
the goal.
"""

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.clips import Clips
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.model.config import CheckpointSpec, LightRange, Thresholds
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.monitoring.light import light_of
from world_model_ros.monitoring.surprise import surprise
from world_model_ros.training.metrics import BATCH, encode_clips, encode_frames, evaluation_mode

SURPRISE_QUANTILE = 0.999
SAME_METRES = 0.015
SAME_RADIANS = 0.1
SAME_JOINTS = 0.02  # rad, of each commanded joint: one or two centimetres at the end of an arm
APART_METRES = 0.05
GOAL_QUANTILE = 0.9
# Of the object distances of pairs that show the objects in the same place. A robot that rests too early
# misses its goal, one that rests too late only moves on: so this is smaller than GOAL_QUANTILE.
OBJECT_QUANTILE = 0.5
OF_THE_ROBOT = 0.9  # share of a coordinate's variance that the robot's joints explain
_FEW = 50  # pairs: fewer give no threshold
_FRAMES = 4000
_PAIRS = 2_000_000


def calibrate(
    model: LeWorldModel, file: EpisodeFile, clips: Clips, spec: CheckpointSpec, seed: int = 0
) -> tuple[Thresholds, dict]:
    """Return thresholds from held-out ``clips`` of ``file``, and metrics of their quality.

    surprise: the 0.999 quantile of the squared error of one step, predicted from a full history.
    norm_low, norm_high: the central 99.8 % of latent norms.
    goal_reached: the 0.9 quantile of squared latent distances between frames of different moments that
    show the same place: every stored coordinate within 1.5 cm (0.1 rad for those named yaw), or, where no
    states are stored, every commanded joint within 0.02 rad. Where too few such pairs exist: between
    consecutive frames with hardly any action between them, and failing these the smallest twentieth of all
    steps.
    object_reached: see ``calibrate_object``.
    """
    latents, blocks = encode_clips(model, clips, spec.image)
    device = next(model.parameters()).device
    parts = zip(latents.split(BATCH), blocks[:, :-1].split(BATCH), strict=True)
    with evaluation_mode(model):
        errors = [
            surprise(model, z[:, :-1].to(device), a.to(device), z[:, -1].to(device)).cpu() for z, a in parts
        ]
    errors = torch.cat(errors).numpy()
    norms = latents.flatten(0, 1).norm(dim=-1).numpy()
    low, high = np.quantile(norms, [0.001, 0.999])
    goal, metrics = _from_states(model, file, clips, spec, seed)
    if goal is None:
        goal, metrics = _from_joints(model, file, clips, spec, seed)
    if goal is None:
        goal, metrics = _from_standstill(latents, clips, spec)
    moved, more = calibrate_object(model, file, clips, spec, seed)
    thresholds = Thresholds(
        goal_reached=goal,
        object_reached=moved,
        surprise=float(np.quantile(errors, SURPRISE_QUANTILE)),
        norm_low=float(low),
        norm_high=float(high),
    )
    return thresholds, metrics | more


def calibrate_object(
    model: LeWorldModel, file: EpisodeFile, clips: Clips, spec: CheckpointSpec, seed: int = 0
) -> tuple[float | None, dict]:
    """Return the object distance below which a goal counts as reached, and a metric of where it is from.

    The median distance of frames of held-out ``clips`` of ``file`` that show all objects in the same place,
    wherever the robot is: within 1.5 cm, or 0.1 rad, in every stored coordinate that the robot's joints do
    not explain. None without the head, states, joints or enough such pairs.
    """
    head = getattr(model, "object", None)
    if head is None or not file.has_states or not file.proprio(clips.episodes[0]).shape[1]:
        return None, {}
    states, joints = (
        np.concatenate([read(episode) for episode in clips.episodes]) for read in (file.states, file.proprio)
    )
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(states))[:_FRAMES]
    objects = ~_explained(np.nan_to_num(joints[rows]), states[rows])
    first, second, gaps, angles = _pairs(file, states[rows], rng)
    there = (gaps <= np.where(angles, SAME_RADIANS, SAME_METRES))[:, objects].all(1)
    if not objects.any() or there.sum() < _FEW:
        return None, {}
    latents = encode_frames(model, clips.pixels[rows], spec.image)
    with torch.inference_mode():
        codes = head.encode(latents.to(next(head.parameters()).device)).cpu()
    distances = np.sqrt(_squared_distances(codes, first[there], second[there]))
    told = f"{int(there.sum())} held-out pairs of frames with the objects in the same place"
    reached = float(np.quantile(distances, OBJECT_QUANTILE))
    return reached, {"object_reached": reached, "object_reached_from": told}


def _explained(joints: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return which coordinates (S,) of states (N, S) are the robot's own: a function of its joints (N, P)."""
    joints = (joints - joints.mean(0)) / np.maximum(joints.std(0), 1e-6)
    first, second = np.triu_indices(joints.shape[1])
    features = np.hstack([np.ones((len(joints), 1)), joints, joints[:, first] * joints[:, second]])
    errors = states - features @ np.linalg.lstsq(features, states, rcond=None)[0]
    return errors.var(0) <= (1 - OF_THE_ROBOT) * states.var(0)


def measure_light(clips: Clips, seed: int = 0) -> LightRange:
    """Return the range of brightness and colors in the frames of the training ``clips``."""
    rows = np.random.default_rng(seed).permutation(len(clips.pixels))[:_FRAMES]
    lights = np.array([light_of(clips.pixels[row]) for row in np.sort(rows)])
    low, high = lights.min(axis=0), lights.max(axis=0)
    mean = lights.mean(axis=0).clip(low, high)  # of equal numbers it may be rounded to outside
    return LightRange(*(tuple(values.round(6).tolist()) for values in (low, mean, high)))


def _from_states(model, file, clips, spec, seed) -> tuple[float | None, dict]:
    if not file.has_states:
        return None, {}
    states = np.concatenate([file.states(episode) for episode in clips.episodes])
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(states))[:_FRAMES]
    latents = encode_frames(model, clips.pixels[rows], spec.image)
    first, second, gaps, angles = _pairs(file, states[rows], rng)
    there = (gaps <= np.where(angles, SAME_RADIANS, SAME_METRES)).all(1)
    apart = (gaps[:, ~angles] > APART_METRES).any(1)
    if there.sum() < _FEW:
        return None, {}
    distances = _squared_distances(latents, first[there], second[there])
    goal = float(np.quantile(distances, GOAL_QUANTILE))
    far = np.flatnonzero(apart)[:100_000]
    mistaken = _squared_distances(latents, first[far], second[far]) <= goal
    return goal, {
        "goal_reached_from": f"{int(there.sum())} held-out pairs of frames of the same place",
        "goal_reached_mistaken": float(mistaken.mean()) if len(far) else 0.0,
    }


def _from_joints(model, file, clips, spec, seed) -> tuple[float | None, dict]:
    names = list(file.attributes.get("proprio_names") or [])
    if file.has_states or spec.action.kind != "joint_velocity" or not set(spec.action.names) <= set(names):
        return None, {}
    commanded = [names.index(name) for name in spec.action.names]  # a velocity's name ends with _velocity
    joints = np.concatenate([file.proprio(episode) for episode in clips.episodes])[:, commanded]
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(joints))[:_FRAMES]
    first, second, gaps, _ = _pairs(file, joints[rows], rng)
    there = (gaps <= SAME_JOINTS).all(1)
    if there.sum() < _FEW:
        return None, {}
    latents = encode_frames(model, clips.pixels[rows], spec.image)
    goal = float(np.quantile(_squared_distances(latents, first[there], second[there]), GOAL_QUANTILE))
    return goal, {
        "goal_reached_from": f"{int(there.sum())} held-out pairs of frames with the joints in the same place"
    }


def _pairs(file, states: np.ndarray, rng) -> tuple[np.ndarray, ...]:
    """Return pairs (first, second) of rows of states, their gaps (pairs, S), and which are angles (S,)."""
    names = file.attributes.get("state_names") or [""] * states.shape[1]
    angles = np.array(["yaw" in name for name in names])
    first, second = np.triu_indices(len(states), 1)
    if len(first) > _PAIRS:
        some = rng.choice(len(first), _PAIRS, replace=False)
        first, second = first[some], second[some]
    gaps = np.abs(states[first] - states[second])
    gaps[:, angles] = np.minimum(gaps[:, angles] % (2 * np.pi), -gaps[:, angles] % (2 * np.pi))
    return first, second, gaps, angles


def _from_standstill(latents: Tensor, clips: Clips, spec: CheckpointSpec) -> tuple[float, dict]:
    """Thresholds from steps of hardly any action; latents (N, T, D) of ``clips`` in order."""
    steps = (latents[:, 1] - latents[:, 0]).square().sum(-1).numpy()
    _, blocks = clips.batch(np.arange(len(clips)))
    action = spec.action
    # zero action in z-scores, and how far 5 % of the range lies from it
    std = np.asarray(action.std, np.float32)
    still = -np.asarray(action.mean, np.float32) / std
    margin = 0.05 * (np.asarray(action.high) - np.asarray(action.low)) / std
    first = blocks[:, 0].reshape(len(blocks), spec.block, action.dim)
    quiet = (np.abs(first - still) <= margin).all((1, 2))
    if quiet.sum() >= _FEW:
        return float(np.quantile(steps[quiet], GOAL_QUANTILE)), {
            "goal_reached_from": f"{int(quiet.sum())} held-out steps of standstill"
        }
    return float(np.quantile(steps, 0.05)), {"goal_reached_from": "the smallest twentieth of held-out steps"}


def _squared_distances(latents: Tensor, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared L2 between rows ``first`` and ``second``, a slice at a time to bound memory."""
    parts = [
        (latents[first[i : i + 65536]] - latents[second[i : i + 65536]]).square().sum(-1).numpy()
        for i in range(0, len(first), 65536)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
