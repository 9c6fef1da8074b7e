"""Trains InverseDynamics on latents of a world model that stays as it is, and the actions between them."""

import math

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from world_model_ros.model.inverse_dynamics import HORIZON, InverseDynamics

HIDDEN = 512
LONGEST = 20  # model steps to the arrival
BATCH = 1024
RATE = 1e-3
BLUR = 0.05  # noise on the start's latent: those that a planner imagines do not lie on real ones


def fit_inverse_dynamics(
    latents: Tensor, blocks: Tensor, lengths: np.ndarray, steps: int, seed: int = 0
) -> InverseDynamics:
    """Return a head fitted for ``steps`` steps to latents (N, D) and the z-scored blocks (N, A) leaving them.

    lengths (E,) are the episodes' numbers of frames, one after the other; the last block of an episode
    is not used. Short arrivals are drawn as often as long ones: log-uniform from 1 to ``LONGEST``.
    Raises ValueError where no episode has two frames.
    """
    lengths = torch.as_tensor(np.asarray(lengths))
    starts = lengths.cumsum(0) - lengths
    starts, lengths = starts[lengths > 1], lengths[lengths > 1]
    if not len(lengths):
        raise ValueError("inverse dynamics need an episode of two frames")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = InverseDynamics(latents.shape[1], blocks.shape[1], HIDDEN)
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=1e-3)

    def draw(high: int | Tensor) -> Tensor:
        return (torch.rand(BATCH, generator=generator) * high).long()

    for step in tqdm(range(steps), desc="inverse dynamics", unit="step", disable=None, leave=False):
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        episode = draw(len(lengths))
        longest = (lengths[episode] - 1).clamp(max=LONGEST)
        arrival = (longest + 1).float().pow(torch.rand(BATCH, generator=generator)).long().clamp(min=1)
        first = starts[episode] + draw(lengths[episode] - arrival)
        here = latents[first] + BLUR * torch.randn((BATCH, latents.shape[1]), generator=generator)
        ahead = torch.arange(HORIZON)
        valid = ahead < arrival[:, None]
        taken = blocks[torch.where(valid, first[:, None] + ahead, first[:, None])]
        errors = (head(here, latents[first + arrival], arrival) - taken).square().mean(-1)
        loss = (errors * valid).sum() / valid.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return head.eval().requires_grad_(False)


@torch.inference_mode()
def inverse_dynamics_figures(
    head: InverseDynamics, latents: Tensor, blocks: Tensor, lengths: np.ndarray
) -> dict[str, float]:
    """Return R2 of the first block at arrivals 1 and 5 on held-out latents, as for the fit."""
    starts, figures = np.cumsum(lengths) - lengths, {}
    for arrival in (1, 5):
        rows = [s + np.arange(n - arrival) for s, n in zip(starts, lengths, strict=True) if n > arrival]
        if not rows:
            continue
        rows = torch.from_numpy(np.concatenate(rows))
        guess = head(latents[rows], latents[rows + arrival], torch.full((len(rows),), arrival))[:, 0]
        taken = blocks[rows]
        spread = (taken - taken.mean(0)).square().sum()
        figures[f"inverse_{arrival}"] = float(1 - (guess - taken).square().sum() / spread)
    return figures
