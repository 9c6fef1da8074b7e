"""Imagination without looking: how the error grows with the steps predicted, and how latents move."""

import numpy as np
import torch
from torch import Tensor

from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.fast_rollout import FastRollout

STEPS = 8  # model steps
_WINDOWS = 2000
_BATCH = 256


@torch.inference_mode()
def open_loop(
    model: LeWorldModel,
    latents: list[Tensor],
    blocks: list[Tensor],
    history: int,
    steps: int = STEPS,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return mean squared errors at 1 to ``steps`` model steps, imagined from a full history.

    latents (T, D) and blocks (T - 1, A) of every episode. ``copy`` is the error of the last seen latent,
    ``ratio`` that of the model over it. Empty lists where no episode is long enough.
    """
    windows = [(e, s) for e, z in enumerate(latents) for s in range(len(z) - history - steps + 1)]
    if not windows:
        return {"steps": [], "error": [], "copy": [], "ratio": []}
    chosen = np.random.default_rng(seed).permutation(len(windows))[:_WINDOWS]
    seen = torch.stack([latents[e][s : s + history + steps] for e, s in (windows[i] for i in chosen)])
    acted = torch.stack([blocks[e][s : s + history + steps - 1] for e, s in (windows[i] for i in chosen)])
    device = next(model.parameters()).device
    fast = FastRollout(model) if isinstance(model, LeWorldModel) else model
    imagined = torch.cat(
        [
            fast.rollout(z[:, :history], a[:, : history - 1], a[:, None, history - 1 :])[:, 0].cpu()
            for z, a in zip(seen.to(device).split(_BATCH), acted.to(device).split(_BATCH), strict=True)
        ]
    )
    future = seen[:, history:]
    error = (imagined - future).square().mean((0, 2))
    copy = (seen[:, history - 1 : history] - future).square().mean((0, 2))
    return {
        "steps": list(range(1, steps + 1)),
        "error": error.tolist(),
        "copy": copy.tolist(),
        "ratio": (error / copy.clamp_min(1e-12)).tolist(),
    }


def straightness(paths: list[np.ndarray], moving: list[np.ndarray]) -> float:
    """Return the mean cosine between consecutive displacements of paths (T, D), 1 for straight lines.

    ``moving`` (T - 1,) says for every step whether it counts; both of a pair must. NaN where none does.
    """
    cosines = []
    for path, counts in zip(paths, moving, strict=True):
        steps = np.diff(np.asarray(path, np.float64), axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        pairs = counts[1:] & counts[:-1] & (lengths[1:] > 0) & (lengths[:-1] > 0)
        products = (steps[1:] * steps[:-1]).sum(1)[pairs]
        cosines.append(products / (lengths[1:] * lengths[:-1])[pairs])
    joined = np.concatenate(cosines) if cosines else np.zeros(0)
    return float(joined.mean()) if len(joined) else float("nan")
