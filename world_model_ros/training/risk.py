"""The risk head: whether an event that must not happen has happened, also in what the model imagines."""

import operator
import re

import numpy as np
import torch
from torch import Tensor, nn

from world_model_ros.data.clips import Clips
from world_model_ros.data.together import EpisodeFiles
from world_model_ros.errors import UserError
from world_model_ros.model.config import RiskSpec
from world_model_ros.model.heads import Risk
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.training.decoder import ENCODED
from world_model_ros.training.fitting import BATCH, draw, fit, noisy

RISK_HIDDEN = 128
STEPS_AHEAD = 5  # model steps ahead that it learns from what the model imagines
FALSE_ALARMS = 0.05  # share of held-out futures without the event that may be announced
LEAST_THRESHOLD = 0.2
IMAGINED_NOISE_STD = 0.2  # imagined latents of other episodes than the training's are less exact


def event_in(states: np.ndarray, names: list[str], event: str) -> np.ndarray:
    """Return whether ``event``, such as "glass_z < 0.16", holds in states (..., S); bool (...).

    Raises UserError for another form and for a state that is not in ``names``.
    """
    parts = re.fullmatch(r"\s*(\w+)\s*([<>])\s*(-?\d+\.?\d*)\s*", event)
    if parts is None:
        raise UserError(f"the event {event!r} is not of the form NAME < NUMBER or NAME > NUMBER.")
    name, sign, bound = parts.groups()
    if name not in names:
        raise UserError(f"there is no stored state {name!r}, only {', '.join(names) or 'none at all'}.")
    compare = operator.lt if sign == "<" else operator.gt
    return compare(np.asarray(states)[..., list(names).index(name)], float(bound))


def check_event(file: EpisodeFiles, clips: Clips, steps: dict[str, int], risk: RiskSpec) -> None:
    """Raise UserError where a risk head is asked for and the data cannot tell its event."""
    if steps["risk"]:
        _learnable(happened_in(file, clips, risk.event, len(clips.episodes)))


def _learnable(happened: Tensor) -> None:
    if happened.all() or not happened.any():
        raise UserError(
            f"the event of --risk {'always' if happened.all() else 'never'} happens in the data: there is "
            "nothing to learn."
        )


def happened_in(file: EpisodeFiles, clips: Clips, event: str, episodes: int) -> Tensor:
    """Return whether the event had happened (N,) in the first ``episodes`` of ``clips``."""
    if not file.has_states:
        raise UserError(f"{file.path} has no states, in which --risk describes the event.")
    names = list(file.attributes.get("state_names") or [])
    states = [file.states(e)[:: clips.stride] for e in clips.episodes[:episodes]]
    return torch.from_numpy(np.concatenate([event_in(part, names, event) for part in states]))


@torch.inference_mode()
def imagined(
    model: LeWorldModel, history: int, latents: Tensor, blocks: Tensor, lengths: np.ndarray, ahead: int
) -> tuple[Tensor, Tensor]:
    """Return the rows (M,) from which ``ahead`` model steps follow, and the latents imagined for these.

    latents (N, D) and the blocks (N, A) leaving them are of episodes of ``lengths``. The model sees
    ``history`` latents up to the row, and the actions that were done; it imagines (M, ahead, D).
    """
    starts = np.cumsum(lengths) - lengths
    rows = [s + np.arange(history - 1, n - ahead) for s, n in zip(starts, lengths, strict=True)]
    rows = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *rows]))
    device, past = next(model.parameters()).device, torch.arange(1 - history, 1)
    futures = []
    for part in rows.split(ENCODED):
        seen, done = latents[part[:, None] + past], blocks[part[:, None] + past[:-1]]
        following = blocks[part[:, None] + torch.arange(ahead)]
        futures.append(
            model.rollout(seen.to(device), done.to(device), following[:, None].to(device))[:, 0].cpu()
        )
    return rows, torch.cat([latents.new_zeros(0, ahead, latents.shape[1]), *futures])


def fit_risk(
    model: LeWorldModel,
    history: int,
    latents: Tensor,
    blocks: Tensor,
    happened: Tensor,
    lengths: np.ndarray,
    steps: int,
    seed: int = 0,
) -> Risk:
    """Return a head fitted for ``steps`` steps to whether the event had ``happened`` (N,) at latents (N, D).

    Half of each batch are latents of frames, half are imagined ones, with what came true: where the model
    cannot tell, the probability lies between 0 and 1. blocks (N, A) leave the latents; lengths (E,) are the
    episodes' numbers of frames. Raises UserError where the event never happens, or always.
    """
    _learnable(happened)
    rows, futures = imagined(model, history, latents, blocks, lengths, STEPS_AHEAD)
    futures = futures.flatten(0, 1).clone()
    came = happened[rows[:, None] + 1 + torch.arange(STEPS_AHEAD)].flatten()
    generator = torch.Generator().manual_seed(seed)

    def loss(head: Risk) -> Tensor:
        seen = draw(len(latents), generator, BATCH // 2)
        ahead = draw(len(futures), generator, BATCH // 2) if len(futures) else seen[:0]
        inputs = torch.cat(
            [noisy(latents[seen], generator), noisy(futures[ahead], generator, IMAGINED_NOISE_STD)]
        )
        labels = torch.cat([happened[seen], came[ahead]]).float()
        return nn.functional.binary_cross_entropy_with_logits(head.logit(inputs), labels)

    return fit(lambda: Risk(latents.shape[1], RISK_HIDDEN), loss, steps, seed, "risk")


@torch.inference_mode()
def risk_metrics(
    head: Risk,
    model: LeWorldModel,
    history: int,
    latents: Tensor,
    blocks: Tensor,
    happened: Tensor,
    lengths: np.ndarray,
) -> tuple[float, dict[str, float]]:
    """Return the threshold of the probability, and how well held-out futures of it are told.

    Futures of ``STEPS_AHEAD`` model steps that begin before the event: of those without it,
    ``FALSE_ALARMS`` exceed the threshold.
    """
    rows, futures = imagined(model, history, latents, blocks, lengths, STEPS_AHEAD)
    before = ~happened[rows]
    comes = happened[rows[:, None] + 1 + torch.arange(STEPS_AHEAD)].any(1)[before]
    highest = head(futures[before]).amax(-1) if len(futures) else torch.zeros(0)
    if not len(comes) or comes.all():
        return 0.5, {}
    threshold = max(LEAST_THRESHOLD, float(highest[~comes].quantile(1 - FALSE_ALARMS)))
    threshold = min(threshold, 0.99)
    metrics = {"risk_false_alarms": float((highest[~comes] >= threshold).float().mean())}
    if comes.any():
        metrics["risk_foreseen"] = float((highest[comes] >= threshold).float().mean())
    return threshold, metrics
