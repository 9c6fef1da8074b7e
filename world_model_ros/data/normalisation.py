"""Actions in physical units and in the z-scores that the model and the solvers work in."""

import numpy as np

from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionInterface, ActionSpec


def action_statistics(file: EpisodeFile, episodes=None) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (dim,) of single control steps, NaN rows left out.

    Raises UserError when an action dimension never moves: it could not be normalised.
    """
    names = file.attributes["action_names"]
    episodes = range(len(file)) if episodes is None else episodes
    steps = np.concatenate([file.actions(e).reshape(-1, len(names)) for e in episodes])
    steps = steps[np.isfinite(steps).all(1)].astype(np.float64)
    if len(steps) == 0:
        raise UserError(f"{file.path} holds no finite action: record again.")
    std = steps.std(0)
    if np.any(std < 1e-8):
        still = [n for n, s in zip(names, std, strict=True) if s < 1e-8]
        raise UserError(
            f"{file.path}: the actions {still} never change: leave them out with "
            f"`train --drop-actions {' '.join(map(str, still))}`, or record them moving."
        )
    return steps.mean(0), std


def action_spec(file: EpisodeFile, episodes=None) -> ActionSpec:
    """Return the ActionSpec of an episode file: its attributes plus statistics of ``episodes``.

    Limits default to what was seen where the file states none.
    """
    mean, std = action_statistics(file, episodes)
    attributes = file.attributes
    names = tuple(attributes["action_names"])
    low, high = attributes.get("action_low"), attributes.get("action_high")
    if low is None or high is None:
        steps = np.concatenate([file.actions(e).reshape(-1, len(names)) for e in range(len(file))])
        low, high = np.nanmin(steps, 0), np.nanmax(steps, 0)
    stated = interface_of(file)
    return ActionSpec(
        names=names,
        kind=stated.kind,
        unit=stated.unit,
        frame=stated.frame,
        mean=tuple(float(v) for v in mean),
        std=tuple(float(v) for v in std),
        low=tuple(float(v) for v in low),
        high=tuple(float(v) for v in high),
    )


def interface_of(file: EpisodeFile) -> ActionInterface:
    """Return what a checkpoint must have in common with an episode file; limits only where it states some."""
    attributes = file.attributes
    low, high = (tuple(map(float, attributes.get(f"action_{end}") or ())) for end in ("low", "high"))
    return ActionInterface(
        names=tuple(attributes["action_names"]),
        kind=attributes["action_kind"],
        unit=attributes["action_unit"],
        frame=attributes.get("action_frame", ""),
        low=low if high else (),
        high=high if low else (),
        period=float(attributes["period"]),
        block=int(attributes["block"]),
    )


def _per_step(spec: ActionSpec, values: tuple[float, ...], width: int) -> np.ndarray:
    if width % spec.dim:
        raise ValueError(f"rows of {width} numbers do not hold whole steps of {spec.names}")
    return np.tile(np.asarray(values, np.float32), width // spec.dim)


def normalise(actions: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """Turn physical actions (..., steps * dim) into z-scores; NaN becomes 0, the mean action."""
    actions = np.asarray(actions, np.float32)
    width = actions.shape[-1]
    scores = (actions - _per_step(spec, spec.mean, width)) / _per_step(spec, spec.std, width)
    return np.nan_to_num(scores, nan=0.0, posinf=np.inf, neginf=-np.inf)


def denormalise(scores: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """Turn z-scores (..., steps * dim) into physical units."""
    scores = np.asarray(scores, np.float32)
    width = scores.shape[-1]
    return scores * _per_step(spec, spec.std, width) + _per_step(spec, spec.mean, width)
