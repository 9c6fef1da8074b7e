"""Landmarks of a checkpoint: recorded latents that cover the training data, and the edges between them.

The planner aims at them on the way to a far goal (planning/landmarks.py).

Shapes: N landmarks, M latents, D latent. Distances are in the head's unit, which is not quite a model step.
"""

import sys

import numpy as np
import torch
from torch import Tensor

from world_model_ros.model.heads import Landmarks, TemporalDistance
from world_model_ros.training.progress import counted

POOL = 10_000  # of the latents, that landmarks are chosen from
# How long an edge may be, there and back, in units of the head's mean estimate for a recorded model step: the
# estimate is above 1 where an explorer goes to and fro, as two latents a step apart are seldom met in a row.
SURE = 2.0
JOINED = 0.9  # share of the pairs of landmarks below which there is a warning
_CHUNK = 64  # latents at a time: with 1024 landmarks the head takes 0.2 GB for these


@torch.no_grad()
def choose_landmarks(
    head: TemporalDistance, latents: Tensor, lengths: np.ndarray, count: int, seed: int = 0
) -> Landmarks:
    """Return ``count`` of latents (M, D), one model step apart, of episodes, and the edges between them.

    lengths (E,) are the episodes' numbers of frames, one after the other. The landmarks are spread by
    farthest point sampling in the head's distance. Each latent belongs to the landmark that is nearest;
    there is an edge from one landmark to another where an episode goes from the one's latents to the other's
    in a model step, and the head estimates no more than ``SURE`` such steps there and back: a recorded step
    alone may start or end far from its landmark, and the head alone may take two sides of a wall for near. Of
    fewer latents all are landmarks.
    """
    count = min(count, len(latents))
    generator = torch.Generator().manual_seed(seed)
    pool = latents[torch.randperm(len(latents), generator=generator)[: max(POOL, count)]]
    found = Landmarks(count, latents.shape[1])
    chosen = spread(head, pool, count)
    found.latents.copy_(pool[chosen])
    parts = latents.split(_CHUNK)
    counts = counted("edges between landmarks", len(parts))
    owner = torch.cat([apart(head, parts[i], found.latents).argmin(1) for i in counts])
    steps = torch.ones(len(latents) - 1, dtype=torch.bool)
    steps[torch.as_tensor(np.cumsum(lengths))[:-1] - 1] = False  # from an episode to the next one
    moved = torch.zeros(count, count, dtype=torch.bool)
    moved[owner[:-1][steps], owner[1:][steps]] = True
    moved.fill_diagonal_(False)
    there = torch.cat([head(part[:, None], found.latents) for part in found.latents.split(_CHUNK)])
    sure = torch.maximum(there, there.T) <= SURE * head(latents[:-1][steps], latents[1:][steps]).mean()
    found.edges.copy_(torch.where(moved & sure, there, 0.0))
    return found


def landmark_metrics(landmarks: Landmarks) -> dict[str, float]:
    """Return how many edges leave a landmark, on average, and the share of pairs that a way joins."""
    edges = landmarks.edges.cpu() > 0
    count = len(edges)
    joined = edges | torch.eye(count, dtype=torch.bool)
    for _ in range(count.bit_length()):
        joined = (joined.float() @ joined.float()) > 0
    return {
        "landmark_edges": float(edges.sum() / count),
        "landmarks_joined": float((joined.sum() - count) / max(1, count * (count - 1))),
    }


def warn_of_landmarks(asked: int, kept: int, joined: float) -> None:
    """Say where there are fewer landmarks than asked for, and where ways over them join too few pairs."""
    if kept < asked:
        print(f"note: there are only {kept} latents for {asked} landmarks", file=sys.stderr)
    if joined < JOINED:
        print(
            f"warning: a way over recorded steps joins {joined:.0%} of the pairs of landmarks, so often the "
            "planner will aim at the goal alone: record more episodes that lead from place to place",
            file=sys.stderr,
        )


def apart(head: TemporalDistance, some: Tensor, others: Tensor) -> Tensor:
    """Return the distances (A, B) between latents (A, D) and (B, D), the longer of there and back."""
    return torch.maximum(head(some[:, None], others), head(others, some[:, None]))


def spread(head: TemporalDistance, pool: Tensor, count: int) -> Tensor:
    """Return the rows (count,) of ``pool`` (M, D) that are each farthest from those before.

    Farthest-point sampling (Gonzalez 1985).
    """
    rows, nearest = [0], torch.full((len(pool),), torch.inf)
    for _ in counted("landmarks", count - 1):
        to_last = torch.cat([apart(head, part, pool[rows[-1:]])[:, 0] for part in pool.split(_CHUNK)])
        nearest = torch.minimum(nearest, to_last)
        nearest[rows] = -torch.inf
        rows.append(int(nearest.argmax()))
    return torch.tensor(rows)
