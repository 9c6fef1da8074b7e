"""The ensemble's second predictor, which judges plans beside the model's own."""

import math

import numpy as np
import torch
from torch import Tensor

from world_model_ros.errors import UserError
from world_model_ros.model.config import ModelConfig
from world_model_ros.model.lewm import Member
from world_model_ros.training.decoder import ENCODED
from world_model_ros.training.fitting import draw, noisy, train, usable

BATCH = 256  # clips
RATE, WARM_UP = 2e-3, 200
LATENT_NOISE_STD = 0.02
CLIP = 1.0  # largest norm of the gradient


def fit_member(
    config: ModelConfig,
    latents: Tensor,
    blocks: Tensor,
    lengths: np.ndarray,
    steps: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Member:
    """Return a predictor of its own, trained for ``steps`` steps on latents (N, D) and blocks (N, A).

    lengths (E,) are the episodes' numbers of frames, one after the other. The loss is the model's: the mean
    square error of the next latent, for each frame of a clip of ``config.history`` (paper, 3.1, equation 1).
    Raises UserError where no episode is a frame longer than that.
    """
    history, starts, lengths = config.history, *usable(lengths)
    starts, lengths = starts[lengths > history], lengths[lengths > history]
    if not len(lengths):
        raise UserError(f"an ensemble needs episodes of {history + 1} frames at least.")
    generator, window = torch.Generator().manual_seed(seed), torch.arange(history + 1)

    def loss(member: Member) -> Tensor:
        episode = draw(len(lengths), generator, BATCH)
        first = starts[episode] + draw(lengths[episode] - history, generator, BATCH)
        rows = first[:, None] + window
        seen = noisy(latents[rows[:, :-1]], generator, LATENT_NOISE_STD)
        told = member.predict(seen.to(device), blocks[rows[:, :-1]].to(device))
        return (told - latents[rows[:, 1:]].to(device)).square().mean()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        member = Member(config).to(device)
        train(member, loss, steps, RATE, "second predictor", WARM_UP, CLIP)
    return member.eval().requires_grad_(False)


@torch.inference_mode()
def member_error(member: Member, history: int, latents: Tensor, blocks: Tensor, lengths: np.ndarray) -> float:
    """Return the mean square error of the next latent after ``history`` held-out ones; nan without any."""
    starts = np.cumsum(lengths) - lengths
    rows = [s + np.arange(n - history) for s, n in zip(starts, lengths, strict=True) if n > history]
    if not rows:
        return math.nan
    rows = torch.from_numpy(np.concatenate(rows))[:, None] + torch.arange(history)
    told = torch.cat([member.predict(latents[part], blocks[part])[:, -1] for part in rows.split(ENCODED)])
    return float((told - latents[rows[:, -1] + 1]).square().mean())
