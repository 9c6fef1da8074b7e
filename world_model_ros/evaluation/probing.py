"""Probing: regressions from latents to physical quantities, open-loop prediction, geometry of the latents."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.errors import UserError
from world_model_ros.evaluation.probes import LinearProbe, MLPProbe, correlation
from world_model_ros.evaluation.recordings import (
    FRESH_PROBING,
    Recording,
    all_frames,
    encode_frames,
    fresh_recordings,
    held_out_split,
    open_data,
    per_recording,
    read_recordings,
)
from world_model_ros.evaluation.surprise import corrupted
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.encoder import normalise_pixels
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.fast_rollout import FastRollout
from world_model_ros.sim.tasks import find_task

EPISODES = 200  # recorded where no file is given: half to fit the probes, half to test them
HELD_OUT_EPISODES = 150
FITTED_FRAMES = 8000
VALIDATION_SHARE = 0.2  # of the episodes that the probes are fitted on
PIXELS = 16  # side of the images that are probed for comparison
SCATTER = 300
AHEAD = 8  # model steps of the open-loop error
_WINDOWS = 2000  # of the open-loop error, at most
_BATCH = 256
MOVING = 0.01  # m, least motion of the tip in a model step that counts as moving
STILL = 1e-3  # standard deviation of a recorded coordinate, m or rad, up to which it does not change
_QUANTILES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


def measure(
    checkpoint: str, task: str, data: Path | None = None, n: int | None = None, seed: int = 0
) -> dict:
    """Return probes, open-loop errors, straightness and norms on held-out episodes, as plain data.

    With ``data``, the file of the training, probes are fitted on episodes the model was trained on, and
    everything is tested on at most ``n`` (150) held-out ones. Without it, ``n`` (200) episodes are recorded;
    probes are fitted on the first half and tested on the second. UserError where the checkpoint does not
    fit the task or the file.

    ``task`` is "" for recorded episodes of no simulated task: then every coordinate of their states, or of
    their proprio, that changes is probed.
    """
    if n is not None and n < 4:
        raise UserError(f"-n {n} episodes are too few: give at least 4.")
    model, spec = load_checkpoint(checkpoint)
    fitted, held_out, source = fitted_and_judged(spec, task, data, n, seed, FRESH_PROBING)
    if task:
        names, probed = find_task(task).state_names, find_task(task).probes
    else:
        names, probed = _changing(data, fitted, held_out)
    probed = probed or single_quantities(names)
    inputs = {
        "latent": _Features(lambda frames: encode_frames(model, frames, spec).numpy()),
        "pixels": _Features(shrunk_pixels),
    }
    untrained = untrained_encoder(spec, all_frames(fitted), seed)
    inputs["untrained"] = _Features(lambda frames: encode_frames(untrained, frames, spec).numpy())
    fitted_inputs = {name: features(fitted) for name, features in inputs.items()}
    judged_inputs = {name: features(held_out) for name, features in inputs.items()}
    probes, correlations, scatter = probe(
        {name: np.concatenate(parts) for name, parts in fitted_inputs.items()},
        quantities(names, probed, np.concatenate([r.states for r in fitted])),
        validation_rows(fitted),
        {name: np.concatenate(parts) for name, parts in judged_inputs.items()},
        quantities(names, probed, np.concatenate([r.states for r in held_out])),
        seed,
    )
    moved = next(iter(probed))
    columns = [names.index(name) for name in probed[moved]]
    moving = [np.linalg.norm(np.diff(r.states[:, columns], axis=0), axis=1) > MOVING for r in held_out]
    paths = {**judged_inputs, moved: [r.states[:, columns] for r in held_out]}
    latents = [torch.from_numpy(z) for z in judged_inputs["latent"]]
    return {
        "task": task,
        "protocol": "probing",
        "seed": seed,
        "episodes": {
            **source,
            "fitted_frames": sum(len(r.pixels) for r in fitted),
            "judged_episodes": len(held_out),
            "judged_frames": sum(len(r.pixels) for r in held_out),
        },
        "probes": probes,
        "linear_r": correlations,
        "scatter": scatter,
        "open_loop": open_loop(
            model, latents, [torch.from_numpy(r.blocks) for r in held_out], spec.history, seed=seed
        ),
        "straightness": {name: straightness(path, moving) for name, path in paths.items()},
        "norms": norm_range(model, spec, all_frames(held_out), torch.cat(latents), seed),
    }


def summary(results: dict) -> str:
    """Return the results as a few lines for people."""
    episodes = results["episodes"]
    lines = [
        f"{results['task'] or 'recorded episodes'}, probing, seed {results['seed']}: probes fitted on "
        f"{episodes['fitted_frames']} frames ({episodes['fitted_on']}), tested on "
        f"{episodes['judged_frames']} ({episodes['judged_on']})",
    ]
    for kind, inputs in results["probes"].items():
        for name, scores in inputs.items():
            metrics = ", ".join(f"{quantity} {r2:.3f}" for quantity, r2 in scores.items())
            lines.append(f"  R2 {kind:<6} of {name:<9} {metrics}")
    metrics = ", ".join(f"{quantity} {r:.3f}" for quantity, r in results["linear_r"]["latent"].items())
    lines.append(f"  r  linear of latent    {metrics}")
    ahead = results["open_loop"]
    for steps, error, ratio in zip(ahead["steps"], ahead["error"], ahead["ratio"], strict=True):
        if steps in (1, 2, 5, 8):
            lines.append(f"  {steps} steps ahead: error {error:.4f}, {ratio:.3f} of the copy baseline")
    lines.append("  straightness: " + ", ".join(f"{k} {v:.3f}" for k, v in results["straightness"].items()))
    norms = results["norms"]
    if norms["outside"] is not None:
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in norms["outside"].items())
        lines.append(f"  latent norms outside {norms['low']:.2f} to {norms['high']:.2f}: {shares}")
    return "\n".join(lines)


def quantities(
    names: Sequence[str], probed: dict[str, tuple[str, ...]], states: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the probed quantities, (N, D) each, of states (N, S) whose coordinates have ``names``.

    ``probed`` gives the coordinates of each quantity. One with "angle" in its name is a coordinate in rad
    and becomes sine and cosine; the others are in m.
    """
    values = {}
    for quantity, coordinates in probed.items():
        values[quantity] = states[:, [names.index(name) for name in coordinates]]
        if "angle" in quantity:
            values[quantity] = np.concatenate([np.sin(values[quantity]), np.cos(values[quantity])], axis=1)
    return values


def single_quantities(names: Sequence[str]) -> dict[str, tuple[str]]:
    """Return every coordinate of a state as a quantity of its own; those named yaw are angles."""
    return {f"angle {name}" if "yaw" in name else name: (name,) for name in names}


def probe(
    fitted: dict[str, np.ndarray],
    targets: dict[str, np.ndarray],
    validation: np.ndarray,
    judged: dict[str, np.ndarray],
    truth: dict[str, np.ndarray],
    seed: int,
) -> tuple[dict, dict, dict]:
    """Return R2 by probe, input and quantity, the linear probe's r likewise, points of the MLP for a plot.

    fitted and judged hold the inputs (N, D) by name, targets and truth the quantities (N, 2) of the same
    rows; ``validation`` (N,) marks the rows of ``fitted`` that choose strength and stopping. UserError where
    a quantity is constant in the rows to test on.
    """
    from sklearn.metrics import r2_score

    constant = [name for name, values in truth.items() if np.any(values.std(0) <= 0)]
    if constant:
        raise UserError(f"{' and '.join(constant)} never changes in the test episodes: give more, or others.")
    names = list(targets)
    y = np.concatenate([targets[name] for name in names], axis=1)
    results: dict = {"linear": {}, "mlp": {}}
    correlations, scatter = {}, {}
    for name in tqdm(fitted, desc="probe", unit="input", leave=False, disable=None):
        x = fitted[name].astype(np.float64)
        parts = x[~validation], y[~validation], x[validation], y[validation]
        for kind, regression in (("linear", LinearProbe(*parts)), ("mlp", MLPProbe(*parts, seed))):
            predicted = regression.predict(judged[name].astype(np.float64))
            columns = dict(zip(names, np.split(predicted, len(names), axis=1), strict=True))
            results[kind][name] = {q: float(r2_score(truth[q], columns[q])) for q in names}
            if kind == "linear":
                correlations[name] = {q: correlation(truth[q], columns[q]) for q in names}
            if kind == "mlp" and name == "latent":
                scatter = _scatter(truth, columns, seed)
    return results, correlations, scatter


def untrained_encoder(spec: CheckpointSpec, frames: np.ndarray, seed: int) -> LeWorldModel:
    """Return a model of the same architecture with random weights, as a baseline.

    Its BatchNorm statistics are computed on ``frames`` (N, H, W, 3), so that its latents are normalised as
    those of a trained model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LeWorldModel(spec.model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # a plain average over all batches
    order = np.random.default_rng(seed).permutation(len(frames))[:2048]
    with torch.no_grad():
        for rows in np.array_split(order, max(1, len(order) // 128)):
            model.encode(normalise_pixels(torch.from_numpy(frames[rows]), spec.image))
    return model.eval()


def shrunk_pixels(frames: np.ndarray) -> np.ndarray:
    """Return frames uint8 (N, H, W, 3) as rows of 16 x 16 RGB in 0..1, (N, 768) float32."""
    small = [cv2.resize(frame, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(small).reshape(len(frames), -1).astype(np.float32) / 255


@torch.inference_mode()
def open_loop(
    model: LeWorldModel,
    latents: list[Tensor],
    blocks: list[Tensor],
    history: int,
    steps: int = AHEAD,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return mean squared errors at 1 to ``steps`` model steps, predicted open-loop from a full history.

    latents (T, D) and blocks (T - 1, A) of every episode. ``copy`` is the error of copying the last
    observed latent, ``ratio`` the error of the model over it. Empty lists where no episode is long enough.
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


def norm_range(
    model: LeWorldModel, spec: CheckpointSpec, frames: np.ndarray, latents: torch.Tensor, seed: int
) -> dict:
    """Return quantiles of the norms of held-out latents (N, D), and the shares that are out of distribution.

    ``outside`` is None where the checkpoint has no latent-norm range.
    """
    low, high = spec.thresholds.norm_low, spec.thresholds.norm_high
    norms = {"held out": latents.norm(dim=-1)}
    for name, images in corrupted(frames, seed).items():
        if name != "normal":
            norms[name] = encode_frames(model, images, spec).norm(dim=-1)
    has_range = low is not None and high is not None
    return {
        "low": low,
        "high": high,
        "quantiles": {
            name: {str(q): float(np.quantile(values.numpy(), q)) for q in _QUANTILES}
            for name, values in norms.items()
        },
        "outside": {name: float(((f < low) | (f > high)).float().mean()) for name, f in norms.items()}
        if has_range
        else None,
    }


class _Features:
    """An encoder of frames, applied recording by recording."""

    def __init__(self, encode):
        self.encode = encode

    def __call__(self, recordings: list[Recording]) -> list[np.ndarray]:
        values = torch.from_numpy(self.encode(all_frames(recordings)))
        return [part.numpy() for part in per_recording(values, recordings)]


def fitted_and_judged(
    spec: CheckpointSpec, task: str, data: Path | None, n: int | None, seed: int, fresh: int
) -> tuple[list[Recording], list[Recording], dict]:
    """Return recordings to fit regressions on, others to judge them on, and in words what they are.

    Of ``data``, the file of the training, at most ``n`` (150) held-out episodes are judged; without it, ``n``
    (200) are recorded with the seed ``fresh`` + ``seed``, half of them to fit.
    """
    if data is None:
        count = EPISODES if n is None else n
        recordings = fresh_recordings(task, spec, count, fresh + seed)
        source = {"fitted_on": "fresh episodes", "judged_on": "other fresh episodes"}
        return recordings[: count // 2], recordings[count // 2 :], source
    with open_data(data, spec) as file:
        training, held_out = held_out_split(spec, file)
        rng = np.random.default_rng(seed)
        training = rng.permutation(training)
        enough = int(np.searchsorted(np.cumsum(file.lengths[training]), FITTED_FRAMES, side="right"))
        chosen = rng.permutation(held_out)[: HELD_OUT_EPISODES if n is None else n]
        fitted = read_recordings(file, training[: max(2, enough)].tolist(), spec, task)
        judged = read_recordings(file, chosen.tolist(), spec, task)
    source = {
        "fitted_on": "episodes of the training",
        "judged_on": "episodes held out",
        "data": data.name,
    }
    return fitted, judged, source


def _changing(data: Path, *parts: list[Recording]) -> tuple[list[str], dict]:
    """Return the names of a file's coordinates, and those as quantities that change in all ``parts``."""
    with EpisodeFile(data) as file:
        names = file.coordinate_names
    moving = np.all([np.concatenate([r.states for r in part]).std(0) > STILL for part in parts], axis=0)
    if not np.any(moving):
        raise UserError(f"{data} has no states or proprio that change: there is nothing to probe.")
    return names, single_quantities([name for name, moves in zip(names, moving, strict=True) if moves])


def validation_rows(recordings: list[Recording]) -> np.ndarray:
    """Mark the rows of the last fifth of the recordings, at least one of them."""
    count = max(1, round(VALIDATION_SHARE * len(recordings)))
    marked = [np.full(len(r.pixels), i >= len(recordings) - count) for i, r in enumerate(recordings)]
    return np.concatenate(marked)


def _scatter(truth: dict[str, np.ndarray], predicted: dict[str, np.ndarray], seed: int) -> dict:
    """Points true and predicted, in m, the angle in degrees."""
    rows = np.random.default_rng(seed).permutation(len(next(iter(truth.values()))))[:SCATTER]
    points = {}
    for name, values in truth.items():
        pair = [values[rows], predicted[name][rows]]
        if "angle" in name:
            pair = [np.degrees(np.arctan2(p[:, :1], p[:, 1:])) for p in pair]
        points[name] = {
            key: np.round(p, 4).tolist() for key, p in zip(("true", "predicted"), pair, strict=True)
        }
    return points
