"""How heads are fitted to the latents of recorded episodes: pairs are drawn, and the rate falls as a cosine.

Shapes: N latents, one model step apart, of E episodes one after the other, of ``lengths`` (E,).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from world_model_ros.training.progress import counted

BATCH = 1024
RATE = 1e-3
LATENT_NOISE_STD = 0.05  # on the first latent: the ones that a planner predicts are not exact either


def fit(
    make: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], steps: int, seed: int, name: str
) -> nn.Module:
    """Return the head that ``make`` makes, trained with AdamW and a cosine rate on batches of ``loss``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = make()
    train(head, loss, steps, RATE, name)
    return head.eval().requires_grad_(False)


def train(
    module: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    steps: int,
    rate: float,
    name: str,
    warm_up: int = 0,
    clip: float = math.inf,
) -> None:
    """Train ``module`` on batches of ``loss`` with AdamW and a cosine rate; steps to ``warm_up`` are smaller.

    ``clip`` is the gradient's largest norm.
    """
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-3)
    for step in counted(name, steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] *= min(1.0, (step + 1) / (warm_up + 1))
        optimiser.zero_grad(set_to_none=True)
        loss(module).backward()
        if clip < math.inf:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimiser.step()


def usable(lengths: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the first rows and the lengths of the episodes that have two frames at least."""
    lengths = torch.as_tensor(np.asarray(lengths))
    starts = lengths.cumsum(0) - lengths
    return starts[lengths > 1], lengths[lengths > 1]


def draw(high: int | Tensor, generator: torch.Generator, count: int = BATCH) -> Tensor:
    """Return ``count`` whole numbers below ``high``."""
    return (torch.rand(count, generator=generator) * high).long()


def noisy(latents: Tensor, generator: torch.Generator, std: float = LATENT_NOISE_STD) -> Tensor:
    """Return latents with noise of the standard deviation ``std``."""
    return latents + std * torch.randn(latents.shape, generator=generator)


def rows_apart(lengths: np.ndarray, offset: int) -> Tensor:
    """Return the rows of all frames that have one ``offset`` model steps later in their episode."""
    starts = np.cumsum(lengths) - lengths
    rows = [s + np.arange(n - offset) for s, n in zip(starts, lengths, strict=True) if n > offset]
    return torch.from_numpy(np.concatenate(rows) if rows else np.zeros(0, np.int64))
