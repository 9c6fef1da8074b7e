"""Whether the event of the risk head is anticipated: when the model announces it, when the pictures show it.

Explorer episodes are repeated with a picture at every control step. At each model step before the event the
actions that follow are imagined, as monitor_node imagines a plan. A difference of two pictures, one control
step apart, is what a detector without a model has; its threshold lets through as large a share of the model
steps without the event as that of the head is set for.
"""

import contextlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from world_model_ros.data.normalisation import normalise
from world_model_ros.errors import UserError
from world_model_ros.evaluation.closed_loop import percentiles
from world_model_ros.evaluation.recordings import FRESH_RISK, encode_frames
from world_model_ros.evaluation.violations import Episode, explore
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.frames import resize_frame
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.monitoring.risk import LONGEST, RiskForecast
from world_model_ros.sim.lockstep import wilson_interval
from world_model_ros.sim.task import Task
from world_model_ros.sim.tasks import check_world, make_world
from world_model_ros.training.risk import FALSE_ALARMS, event_in

EPISODES = 100  # with the event, and without
_LEAD = 0.25  # s
_AHEAD = 4  # model steps that are compared with copying
_MOST = 20  # episodes tried for each one with the event


class Anticipation(NamedTuple):
    """One episode; moments are control steps from its start."""

    onset: int | None  # the event has happened by then; None: it does not happen
    announced: int | None  # the first announcement that comes true within what was imagined
    alarms: int  # announcements that do not come true, each once
    judged: int  # model steps before the event, at which there may be an announcement
    differences: np.ndarray  # (T - 1,) mean absolute difference of neighbouring pictures, 0 to 255
    errors: np.ndarray  # (2, _AHEAD) of prediction and of copying over the event's onset; NaN where unknown


def measure(
    checkpoint: str, task: str, data: Path | None = None, n: int | None = None, seed: int = 0
) -> dict:
    """Return how long before the pictures show the event it is announced, as plain data.

    ``n`` episodes with the event and ``n`` without. UserError for a checkpoint without a risk head.
    """
    if data is not None:
        raise UserError("the protocol risk records its own episodes: leave out --data.")
    model, spec = load_checkpoint(checkpoint)
    if model.risk is None:
        raise UserError(
            f"{checkpoint} has no risk head: add one with `train-heads --risk-steps`, --risk and --risk-name."
        )
    check_world(spec, task)
    wanted = EPISODES if n is None else n
    with_event, without = [], []
    with (
        contextlib.closing(make_world(task)) as world,
        tqdm(total=2 * wanted, desc="risk", unit="episode", leave=False, disable=None) as bar,
    ):
        for index in range(_MOST * wanted):
            if len(with_event) == len(without) == wanted:
                break
            episode = explore(world, (FRESH_RISK + seed, index))
            happens = event_in(episode.states, world.state_names, spec.risk.event).any()
            kept = with_event if happens else without
            if len(kept) < wanted:
                kept.append(anticipation(model, spec, world, episode))
                bar.update()
    results = {"task": task, "protocol": "risk", "n": wanted, "seed": seed, "name": spec.risk.name}
    return results | {"threshold": spec.risk.threshold} | _figures(with_event, without, spec)


def anticipation(model: LeWorldModel, spec: CheckpointSpec, world: Task, episode: Episode) -> Anticipation:
    """Repeat an episode and imagine, at each model step before the event, the actions that follow."""
    pictures, states = [], []

    def look() -> None:
        pictures.append(resize_frame(world.render(), spec.image.size))
        states.append(world.state())

    world.reset(episode.seed)
    look()
    for action in episode.actions.reshape(-1, episode.actions.shape[-1]):
        world.step(action)
        look()
    frames, block = np.stack(pictures), spec.block
    happened = event_in(np.stack(states), world.state_names, spec.risk.event)
    onset = int(happened.argmax()) if happened.any() else None
    latents = encode_frames(model, frames[::block], spec)
    blocks = torch.from_numpy(normalise(episode.actions.reshape(len(episode.actions), -1), spec.action))
    actions = episode.actions.reshape(-1, episode.actions.shape[-1])
    forecast, announced, alarms, judged, before = RiskForecast(model, spec), None, 0, 0, False
    last = len(blocks) if onset is None else -(-onset // block)
    for step in range(spec.history - 1, last):
        past = slice(step - spec.history + 1, step + 1)
        reason = forecast.step(
            list(latents[past]), list(blocks[past.start : step]), actions[step * block :][: LONGEST * block]
        )
        judged += 1
        true = onset is not None and onset <= (step + LONGEST) * block
        if reason and true and announced is None:
            announced = step * block
        alarms += bool(reason) and not before and not true
        before = bool(reason)
    differences = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3))
    errors = np.full((2, _AHEAD), np.nan)
    first = last - 1  # the model step in which the event begins
    if onset is not None and spec.history - 1 <= first <= len(blocks) - _AHEAD:
        errors = _errors(model, spec, latents, blocks, first)
    return Anticipation(onset, announced, alarms, judged, differences, errors)


@torch.inference_mode()
def _errors(model: LeWorldModel, spec: CheckpointSpec, latents, blocks, first: int) -> np.ndarray:
    """Return mean squared errors (2, _AHEAD) from frame ``first`` on, of prediction and of copying it."""
    past = slice(first - spec.history + 1, first + 1)
    following = blocks[first : first + _AHEAD]
    imagined = model.rollout(latents[None, past], blocks[None, past.start : first], following[None, None])
    real = latents[first + 1 : first + 1 + _AHEAD]
    guesses = torch.stack([imagined[0, 0], latents[first].expand_as(real)])
    return (guesses - real).square().mean(-1).numpy()


def _figures(with_event: list[Anticipation], without: list[Anticipation], spec: CheckpointSpec) -> dict:
    quiet = [
        # Entry i is between pictures i and i + 1: the last one before the event already shows it.
        a.differences if a.onset is None else a.differences[: max(0, a.onset - 1)]
        for a in (*with_event, *without)
    ]
    bound = float(np.quantile(np.concatenate(quiet), 1 - FALSE_ALARMS / spec.block)) if quiet else math.nan
    leads, before_onset = [], []
    shown = 0
    for a in with_event:
        # Differences before the event are those of the robot. Never shown counts as shown at the end.
        seen = a.onset - 1 + np.flatnonzero(a.differences[a.onset - 1 :] > bound)
        shown += bool(len(seen))
        moment = seen[0] + 1 if len(seen) else len(a.differences)
        lead = -math.inf if a.announced is None else spec.period * (moment - a.announced)
        leads.append(lead)
        before_onset.append(-math.inf if a.announced is None else spec.period * (a.onset - a.announced))
    alarms, judged = (sum(getattr(a, name) for a in (*with_event, *without)) for name in ("alarms", "judged"))
    errors = np.array([a.errors for a in with_event if np.isfinite(a.errors).all()]).reshape(-1, 2, _AHEAD)
    in_time = {name: sum(v >= _LEAD for v in values) for name, values in _named(leads, before_onset)}
    count = len(with_event)
    return {
        "events": count,
        "announced": sum(a.announced is not None for a in with_event),
        "lead": {
            name: percentiles([v for v in values if v > -math.inf])
            for name, values in _named(leads, before_onset)
        },
        "in_time": {
            name: {"share": k / count, "interval": wilson_interval(k, count)} if count else None
            for name, k in in_time.items()
        },
        "shown_by_difference": shown,
        "difference_bound": bound,
        "false_alarms": {"alarms": alarms, "steps": judged, "per_500": 500 * alarms / max(1, judged)},
        "error_over_copying": None
        if not len(errors)
        else (errors[:, 0].mean(0) / errors[:, 1].mean(0)).round(4).tolist(),
        "windows": len(errors),
    }


def _named(leads: list[float], before_onset: list[float]):
    return (("before the difference", leads), ("before the event", before_onset))


def summary(results: dict) -> str:
    """Return the results as a few lines for people."""
    lines = [
        f"{results['task']}, risk ({results['name']!r}), {results['events']} episodes with the event and "
        f"{results['n']} without, seed {results['seed']}",
        f"  announced         {results['announced']} of {results['events']}, from a probability of "
        f"{results['threshold']:.2f} on",
    ]
    for name, lead in results["lead"].items():
        share = results["in_time"][name]
        if lead["p50"] is not None and share is not None:
            lines.append(
                f"  {name:<24} median {lead['p50']:.2f} s; {100 * share['share']:.1f} % at least {_LEAD} s"
            )
    alarms, steps, rate = results["false_alarms"].values()
    lines.append(f"  false alarms      {alarms} in {steps} model steps, {rate:.1f} in 500")
    if results["error_over_copying"] is not None:
        ratios = ", ".join(f"{r:.2f}" for r in results["error_over_copying"])
        lines.append(
            f"  over the event    prediction error {ratios} of copying, 1 to {_AHEAD} model steps ahead "
            f"({results['windows']} windows)"
        )
    return "\n".join(lines)
