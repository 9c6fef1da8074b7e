"""Refines the predictor on the latents of episodes that the encoder was not trained on.

A trained encoder places the frames that it knows a little more predictably than others, so a predictor
trained beside it is surprised by new ones. With the encoder frozen, latents are computed once, and a
step on them, several model steps ahead as planning uses them, costs a fraction of a training step.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from world_model_ros.model.lewm import LeWorldModel

AHEAD = 5  # model steps that are imagined
BATCH = 256
RATE = 3e-4
_WARM_UP = 100  # steps


def refine_predictor(
    model: LeWorldModel, latents: Tensor, blocks: Tensor, lengths: np.ndarray, steps: int, seed: int = 0
) -> float:
    """Fit ``model``'s predictor for ``steps`` steps to latents (N, D) and the blocks (N, A) leaving them.

    lengths (E,) are the episodes' numbers of frames, one after the other. The loss is the mean square
    error of ``AHEAD`` imagined latents, from contexts of 1 to ``history`` frames. Returns its mean over
    the last tenth of the steps. Encoder, projectors' BatchNorm statistics and heads stay as they are.
    Raises ValueError where no episode is long enough.
    """
    history = model.config.history
    span = torch.arange(history + AHEAD)
    starts = np.cumsum(lengths) - lengths
    rows = [s + np.arange(n - len(span) + 1) for s, n in zip(starts, lengths, strict=True) if n >= len(span)]
    if not rows:
        raise ValueError(f"refining needs an episode of {len(span)} model steps")
    rows = torch.from_numpy(np.concatenate(rows))
    device = next(model.parameters()).device
    parts = (model.predictor, model.action_encoder, model.pred_proj)
    weights = [p for part in parts for p in part.parameters()]
    frozen = [(p, p.requires_grad) for p in model.parameters()]
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=1e-3)
    errors = []
    model.eval().requires_grad_(False)
    model.predictor.train()  # for its dropout; BatchNorm, in the projectors, keeps its statistics
    for weight in weights:
        weight.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in tqdm(range(steps), desc="refining", unit="step", disable=None, leave=False):
            for group in optimiser.param_groups:
                warm = min(1.0, (step + 1) / _WARM_UP)
                group["lr"] = RATE * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
            window = rows[torch.randint(len(rows), (BATCH,), generator=generator)][:, None] + span
            seen, taken = latents[window].to(device), blocks[window].to(device)
            first = int(torch.randint(history, (1,), generator=generator))
            imagined = model.rollout(
                seen[:, first:history], taken[:, first : history - 1], taken[:, None, history - 1 : -1]
            )
            loss = (imagined[:, 0] - seen[:, history:]).square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            errors.append(loss.item())
    model.eval()
    for weight, wanted in frozen:
        weight.requires_grad_(wanted)
    return float(np.mean(errors[-max(1, steps // 10) :])) if errors else math.nan
