"""Violation of expectation: surprise at physically impossible violations, and false alarms at normal steps.

The surprise of a step is the squared L2 distance between the latent predicted from a full history of observed
latents and executed actions, and the observed latent (paper, surprise evaluation). SIGReg brings the norms of
latents into a narrow range: a latent outside it is out of distribution.
"""

import contextlib
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from world_model_ros.data.normalisation import normalise
from world_model_ros.evaluation.recordings import (
    FRESH_NORMAL,
    FRESH_VIOLATIONS,
    Recording,
    all_frames,
    encode_frames,
    fresh_recordings,
    held_out_split,
    one_step_errors,
    open_data,
    per_recording,
    read_recordings,
)
from world_model_ros.evaluation.violations import (
    Episode,
    StagedViolation,
    explore,
    kinds,
    replay,
    stage_violation,
)
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.frames import resize_frame
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.monitoring.anomaly import AnomalyMonitor
from world_model_ros.sim.lockstep import wilson_interval
from world_model_ros.sim.task import Task
from world_model_ros.sim.tasks import check_world, make_world

NORMAL_EPISODES = 200  # recorded; 18 steps of each have a full history
HELD_OUT_EPISODES = 100
NORM_FRAMES = 500
VIOLATIONS = 200  # of each kind
_TRIES = 4  # episodes tried for each violation of a kind
_GREY = 128


def measure(
    checkpoint: str, task: str, data: Path | None = None, n: int | None = None, seed: int = 0
) -> dict:
    """Return the surprise of ``n`` violations of each kind and of normal steps, as plain data.

    Normal steps and violations come from newly recorded episodes of the simulator; with ``data``, the file of
    the training, the false alarms on its held-out episodes are counted too. UserError where the checkpoint
    does not fit the task or the file.
    """
    model, spec = load_checkpoint(checkpoint)
    kinds(task)  # refuses a task that stages none
    wanted = VIOLATIONS if n is None else n
    normal_recordings = fresh_recordings(task, spec, NORMAL_EPISODES, FRESH_NORMAL + seed)
    normal, holds = _normal(model, spec, normal_recordings)
    with contextlib.closing(make_world(task)) as world:
        check_world(spec, task)
        scored, missed = score_violations(model, spec, world, wanted, seed)
        example = example_series(model, spec, world, seed)
    scores = {kind: errors for kind, errors in scored.items() if len(errors)}
    threshold = spec.thresholds.surprise
    alarms = None if threshold is None else normal > threshold
    results = {
        "task": task,
        "protocol": "surprise",
        "n": wanted,
        "seed": seed,
        "auroc": {kind: auroc(errors, normal) for kind, errors in scores.items()},
        "threshold": threshold,
        "false_alarms": None if alarms is None else _alarms(alarms),
        "holds": holds,
        "detected": None
        if threshold is None
        else {kind: float((errors > threshold).mean()) for kind, errors in scores.items()},
        "medians": {
            "normal": float(np.median(normal)),
            **{kind: float(np.median(errors)) for kind, errors in scores.items()},
        },
        "counts": {kind: len(errors) for kind, errors in scored.items()},
        "episodes_without_place": missed,
        "normal_quantiles": {
            q: float(np.quantile(normal, float(q))) for q in ("0.99", "0.995", "0.998", "0.999")
        },
        "scores": {
            kind: [round(float(e), 4) for e in errors]
            for kind, errors in {"normal": normal, **scores}.items()
        },
        "norm_range": norm_range(model, spec, all_frames(normal_recordings), seed),
        "example": example,
    }
    if data is not None and threshold is not None:
        with open_data(data, spec) as file:
            _, held_out = held_out_split(spec, file)
            recordings = read_recordings(file, held_out[:HELD_OUT_EPISODES], spec, task)
            errors, results["holds_held_out"] = _normal(model, spec, recordings)
        results["false_alarms_held_out"] = _alarms(errors > threshold)
    return results


def summary(results: dict) -> str:
    """Return the results as a few lines for people."""
    lines = [f"{results['task']}, surprise, {results['n']} violations of each kind, seed {results['seed']}"]
    false = results["false_alarms"]
    if false is not None:
        low, high = (500 * bound for bound in false["interval"])
        lines.append(
            f"  false alarms      {false['alarms']} of {false['steps']} normal steps, "
            f"{false['per_500']:.2f} in 500 [{low:.2f}, {high:.2f}], threshold {results['threshold']:.3f}"
        )
    for name, holds in (("fresh", results["holds"]), ("held out", results.get("holds_held_out"))):
        if holds is not None:
            low, high = (500 * bound for bound in holds["interval"])
            lines.append(
                f"  false HOLDs       {holds['holds']} in {holds['steps']} normal steps ({name}), "
                f"{holds['per_500']:.2f} in 500 [{low:.2f}, {high:.2f}], by the rule of monitor_node"
            )
    normal = results["medians"]["normal"]
    for kind, value in results["auroc"].items():
        detected = (
            "" if results["detected"] is None else f", detected {100 * results['detected'][kind]:5.1f} %"
        )
        times = results["medians"][kind] / max(normal, 1e-12)
        lines.append(f"  {kind:<17} AUROC {value:.3f}{detected}, median {times:.1f} times a normal step's")
    if results["norm_range"] is not None:
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in results["norm_range"].items())
        lines.append(f"  out of distribution by the latent norm: {shares}")
    return "\n".join(lines)


def auroc(violations: np.ndarray, normal: np.ndarray) -> float:
    """Return the probability that a violation scores higher than a normal step, a tie counting half.

    The area under the ROC curve. NaN where either is empty or not all scores are finite.
    """
    from sklearn.metrics import roc_auc_score

    scores = np.concatenate([violations, normal])
    if len(violations) == 0 or len(normal) == 0 or not np.all(np.isfinite(scores)):
        return float("nan")
    return float(roc_auc_score(np.arange(len(scores)) < len(violations), scores))


def score_violations(
    model: LeWorldModel, spec: CheckpointSpec, world: Task, n: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return the surprise of the first step after ``n`` violations of each kind, (n,) each.

    Also return in how many episodes a kind was not possible. There are fewer than ``n`` scores where that is
    so in too many of them.
    """
    first = spec.history - 1
    names = kinds(world.task)
    clips: dict[str, list] = {kind: [] for kind in names}
    missed = dict.fromkeys(names, 0)
    rng = np.random.default_rng((FRESH_VIOLATIONS + seed, 1))
    with tqdm(total=n * len(names), desc="violations", unit="violation", leave=False, disable=None) as bar:
        for index in range(_TRIES * n):
            open_kinds = [kind for kind in names if len(clips[kind]) < n]
            if not open_kinds:
                break
            episode = explore(world, (FRESH_VIOLATIONS + seed, index))
            for kind in open_kinds:
                violation = stage_violation(kind, world.task, episode, first, rng)
                if violation is None:
                    missed[kind] += 1
                    continue
                clips[kind].append(_clip(world, spec, episode, violation))
                bar.update()
    return {kind: _errors(model, spec, recordings) for kind, recordings in clips.items()}, missed


def example_series(model: LeWorldModel, spec: CheckpointSpec, world: Task, seed: int) -> dict:
    """Return the surprise of every step of one episode with the task's first violation in its middle.

    ``scores`` begin at frame ``first_frame``; the violation happens between the frames ``step`` and
    ``step`` + 1.
    ``example_pictures`` renders the episode again.
    """
    for index in range(1000):
        episode = explore(world, (FRESH_VIOLATIONS + seed, index), steps=20)
        violation = _example_violation(world.task, episode)
        if violation is not None and violation.step < 14:
            break
    pixels = _seen(replay(world, episode, range(len(episode.states)), violation), spec)
    recording = Recording(pixels, _blocks(episode, spec), episode.states)
    return {
        "kind": violation.kind,
        "seed": list(episode.seed),
        "step": violation.step,
        "first_frame": spec.history,
        "scores": [round(float(s), 4) for s in _errors(model, spec, [recording])],
    }


def example_pictures(task: str, example: dict) -> list[np.ndarray]:
    """Return all frames, uint8 (H, W, 3), of the episode that ``example_series`` scored."""
    with contextlib.closing(make_world(task)) as world:
        episode = explore(world, tuple(example["seed"]), steps=20)
        return replay(world, episode, range(len(episode.states)), _example_violation(task, episode))


def norm_range(model: LeWorldModel, spec: CheckpointSpec, frames: np.ndarray, seed: int) -> dict | None:
    """Return the share of latents outside the checkpoint's latent-norm range for each change of ``frames``.

    None where the checkpoint has no such range.
    """
    low, high = spec.thresholds.norm_low, spec.thresholds.norm_high
    if low is None or high is None:
        return None
    shares = {}
    for name, images in corrupted(frames, seed).items():
        norms = encode_frames(model, images, spec).norm(dim=-1)
        shares[name] = float(((norms < low) | (norms > high)).float().mean())
    return shares


def corrupted(frames: np.ndarray, seed: int, count: int = NORM_FRAMES) -> dict[str, np.ndarray]:
    """Return ``count`` of ``frames`` (N, H, W, 3) unchanged, and corrupted in several ways."""
    rng = np.random.default_rng((seed, 0x6A4D))
    chosen = frames[rng.permutation(len(frames))[:count]]
    size = chosen.shape[1]
    occluded = chosen.copy()
    for picture, (top, left) in zip(occluded, rng.integers(0, size // 2, (len(chosen), 2)), strict=True):
        picture[top : top + size // 2, left : left + size // 2] = _GREY
    return {
        "normal": chosen,
        "noise": rng.integers(0, 256, chosen.shape, np.uint8),
        "inverted": 255 - chosen,
        "black": np.zeros_like(chosen[:1]),
        "occluded": occluded,
    }


def false_holds(spec: CheckpointSpec, episodes: list[tuple[np.ndarray, np.ndarray]]) -> dict | None:
    """Return how often monitor_node would have stopped the robot, by its own rule and default parameters.

    episodes: the surprise (N - history,) of each one's steps with a full history, and the norms (N,) of its
    latents. None where the checkpoint has no thresholds.
    """
    limits = spec.thresholds
    if limits.surprise is None and None in (limits.norm_low, limits.norm_high):
        return None
    holds = steps = held = 0
    for errors, norms in episodes:
        monitor, before = AnomalyMonitor(limits.surprise, limits.norm_low, limits.norm_high), ""
        unknown = [None] * (len(norms) - len(errors))
        for error, norm in zip([*unknown, *errors.tolist()], norms.tolist(), strict=True):
            reason = monitor.step(error, norm)
            holds += bool(reason) and not before
            held += bool(reason)
            steps += 1
            before = reason
    return {
        "steps": steps,
        "holds": holds,
        "steps_held": held,
        "per_500": 500 * holds / max(1, steps),
        "interval": wilson_interval(holds, steps),
    }


def _normal(
    model: LeWorldModel, spec: CheckpointSpec, recordings: list[Recording]
) -> tuple[np.ndarray, dict | None]:
    """Surprise of all steps with a full history, and how often the monitor would have stopped the robot."""
    episodes = _scored(model, spec, recordings)
    return np.concatenate([errors for errors, _ in episodes]), false_holds(spec, episodes)


def _errors(model: LeWorldModel, spec: CheckpointSpec, recordings: list[Recording]) -> np.ndarray:
    """Surprise of all steps with a full history, recording after recording."""
    return np.concatenate([np.zeros(0), *(errors for errors, _ in _scored(model, spec, recordings))])


def _scored(
    model: LeWorldModel, spec: CheckpointSpec, recordings: list[Recording]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Surprise of the steps with a full history, and the norms of all latents, of each recording."""
    if not recordings:
        return []
    latents = per_recording(encode_frames(model, all_frames(recordings), spec), recordings)
    return [
        (
            one_step_errors(model, z, torch.from_numpy(r.blocks), spec.history).numpy(),
            z.norm(dim=-1).numpy(),
        )
        for z, r in zip(latents, recordings, strict=True)
    ]


def _clip(world: Task, spec: CheckpointSpec, episode: Episode, violation: StagedViolation) -> Recording:
    """Return a full history before the violation and the one frame after it."""
    rows = slice(violation.step - spec.history + 1, violation.step + 2)
    pixels = _seen(replay(world, episode, range(rows.start, rows.stop), violation), spec)
    return Recording(pixels, _blocks(episode, spec)[rows.start : rows.stop - 1], episode.states[rows])


def _seen(pictures: list[np.ndarray], spec: CheckpointSpec) -> np.ndarray:
    return np.stack([resize_frame(picture, spec.image.size) for picture in pictures])


def _blocks(episode: Episode, spec: CheckpointSpec) -> np.ndarray:
    return normalise(episode.actions.reshape(len(episode.actions), -1), spec.action)


def _example_violation(task: str, episode: Episode) -> StagedViolation | None:
    return stage_violation(kinds(task)[0], task, episode, 8, np.random.default_rng(episode.seed))


def _alarms(alarms: np.ndarray) -> dict:
    count, steps = int(alarms.sum()), len(alarms)
    return {
        "steps": steps,
        "alarms": count,
        "per_500": 500 * count / steps,
        "interval": wilson_interval(count, steps),
    }
