"""Trains a TemporalDistance on latents of a world model that stays as it is."""

import math

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from world_model_ros.model.temporal import TemporalDistance

HIDDEN = 256
BATCH = 1024
RATE = 1e-3
LONGEST = 20  # model steps; what lies farther apart is simply far
BLUR = 0.05  # noise on the start's latent: those that a planner imagines do not lie on real ones
STRANGERS = 0.15  # share of pairs from two episodes


def fit_temporal_distance(
    latents: Tensor, lengths: np.ndarray, steps: int, seed: int = 0, hidden: int = HIDDEN
) -> TemporalDistance:
    """Return a head fitted for ``steps`` steps to latents (N, D), one model step apart, of episodes.

    lengths (E,) are the episodes' numbers of frames, one after the other. The target is the offset
    between two frames of an episode, up to ``LONGEST``; a pair of two episodes counts as a quarter more
    than that. The error is taken in log(1 + steps): a step more matters when near, hardly when far.
    Raises ValueError for fewer than two episodes of two frames.
    """
    lengths = torch.as_tensor(np.asarray(lengths))
    starts = lengths.cumsum(0) - lengths
    starts, lengths = starts[lengths > 1], lengths[lengths > 1]
    if len(lengths) < 2:
        raise ValueError("a temporal distance needs at least two episodes of two frames")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = TemporalDistance(latents.shape[1], hidden)
    optimiser = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=1e-3)
    longest = int(lengths.clamp(max=LONGEST + 1).max()) - 1
    stranger = torch.tensor(1.25 * longest)

    def draw(high: int | Tensor) -> Tensor:
        return (torch.rand(BATCH, generator=generator) * high).long()

    for step in tqdm(range(steps), desc="temporal distance", unit="step", disable=None, leave=False):
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        episode = draw(len(lengths))
        offset = draw(lengths[episode].clamp(max=longest + 1))
        first = draw(lengths[episode] - offset)
        apart = torch.rand(BATCH, generator=generator) < STRANGERS
        # another episode for sure: 1 to E - 1 further on
        other = (episode + 1 + draw(len(lengths) - 1)) % len(lengths)
        there = torch.where(apart, starts[other] + draw(lengths[other]), starts[episode] + first + offset)
        here = latents[starts[episode] + first]
        here = here + BLUR * torch.randn(here.shape, generator=generator)
        target = torch.where(apart, stranger, offset.float())
        loss = (torch.log1p(target) - torch.log1p(head(here, latents[there]))).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return head.eval().requires_grad_(False)


def temporal_figures(head: TemporalDistance, latents: Tensor, lengths: np.ndarray) -> dict[str, float]:
    """Return the mean estimate at offsets 0, 1, 5 and 20 of held-out latents, as for the fit."""
    starts = np.cumsum(lengths) - lengths
    figures = {}
    for offset in (0, 1, 5, LONGEST):
        rows = [s + np.arange(n - offset) for s, n in zip(starts, lengths, strict=True) if n > offset]
        if rows:
            rows = torch.from_numpy(np.concatenate(rows))
            figures[f"temporal_{offset}"] = float(head(latents[rows], latents[rows + offset]).mean())
    return figures
