"""How true the pictures are that a checkpoint's decoder makes of latents, those seen and those imagined.

Measured are PSNR, SSIM, and the error of the position of what the task is about: a regression that was fitted
on real frames, and on none that was decoded, reads it from the pictures. Beside it stand the same reading of
the real frames, the linear probe of the latents, and for what is imagined, copying the present frame.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from world_model_ros.errors import UserError
from world_model_ros.evaluation.probes import LinearProbe, MLPProbe
from world_model_ros.evaluation.probing import (
    fitted_and_judged,
    quantities,
    shrunk_pixels,
    single_quantities,
    validation_rows,
)
from world_model_ros.evaluation.recordings import (
    FRESH_IMAGINATION,
    Recording,
    all_frames,
    encode_frames,
)
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.decoder import Decoder
from world_model_ros.model.frames import resize_frame
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.fast_rollout import FastRollout
from world_model_ros.sim.tasks import find_task

AHEAD = (5, 8)  # model steps
MOVED = 0.02  # m, least way of the thing in the steps ahead that counts as moved
_RESAMPLES = 2000  # of the episodes, for an interval
_BATCH = 256
# Of SSIM: the window's standard deviation in pixels and the constants (Wang et al. 2004, section III C).
_SIGMA, _C1, _C2 = 1.5, 0.01**2, 0.03**2


def measure(
    checkpoint: str, task: str, data: Path | None = None, n: int | None = None, seed: int = 0
) -> dict:
    """Return likeness and errors of position of decoded pictures, as plain data.

    Each value is a mean over frames with a 95 % interval, for which whole episodes are drawn again
    (bootstrap). Positions are in cm. With ``data``, the file of the training, the readers of positions are
    fitted on episodes of the training and everything is judged on at most ``n`` (150) held-out ones;
    without it, ``n`` (200) episodes are recorded, half of them to fit. Raises UserError where the checkpoint
    has no decoder, or does not fit the task or the file.
    """
    model, spec = load_checkpoint(checkpoint)
    if model.decoder is None:
        raise UserError(
            f"{checkpoint} has no decoder, which makes pictures of latents: add one with `train-heads "
            "--decoder`."
        )
    if n is not None and n < 4:
        raise UserError(f"-n {n} episodes are too few: give at least 4.")
    kind, size = find_task(task), model.decoder.size
    probes = kind.probes or single_quantities(kind.state_names)
    pictured = kind.pictured or next(iter(probes))
    fitted, judged, source = fitted_and_judged(spec, task, data, n, seed, FRESH_IMAGINATION)

    def positions(recordings: list[Recording]) -> np.ndarray:
        states = np.concatenate([r.states for r in recordings])
        return quantities(kind.state_names, {pictured: probes[pictured]}, states)[pictured].astype(float)

    kept = validation_rows(fitted)
    frames = _resized(all_frames(fitted), size)
    target = positions(fitted)
    reader = PictureReader(kind, frames, target, kept, seed)
    z = encode_frames(model, all_frames(fitted), spec).double().numpy()
    probe = LinearProbe(z[~kept], target[~kept], z[kept], target[kept])

    latents = encode_frames(model, all_frames(judged), spec)
    real, decoded = _resized(all_frames(judged), size), decode(model.decoder, latents)
    truth, read = positions(judged), reader(real)
    median = np.broadcast_to(np.median(frames, axis=0).astype(np.uint8), real.shape)
    episodes = np.repeat(np.arange(len(judged)), [len(r.pixels) for r in judged])
    rng = np.random.default_rng(seed)

    def mean(values: np.ndarray, groups: np.ndarray = episodes) -> dict:
        return mean_and_interval(values, groups, rng)

    def ahead(steps: int) -> dict:
        starts, imagined = open_loop(model, judged, latents, steps)
        now, then = starts + model.config.history - 1, starts + model.config.history - 1 + steps
        moved = np.linalg.norm(truth[then] - truth[now], axis=1) > MOVED
        errors = {}
        if len(starts):
            errors = {
                "decoded": _centimetres(reader(decode(model.decoder, imagined)), truth[then]),
                "real_frames": _centimetres(read[then], truth[then]),
                "linear_probe": _centimetres(probe.predict(imagined.double().numpy()), truth[then]),
                "copy": _centimetres(read[now], truth[then]),
            }
        return {
            name: {
                "windows": int(rows.sum()),
                "block_cm": {
                    k: mean(v[rows], episodes[starts[rows]]) for k, v in errors.items() if rows.any()
                },
            }
            for name, rows in (("all", np.ones(len(starts), bool)), ("moved", moved))
        }

    return {
        "task": task,
        "protocol": "imagination",
        "n": len(judged),
        "seed": seed,
        "episodes": {
            **source,
            "fitted_frames": len(frames),
            "judged_episodes": len(judged),
            "judged_frames": len(real),
        },
        "size": size,
        "pictured": pictured,
        "psnr": mean(psnr(decoded, real)),
        "ssim": mean(ssim(decoded, real)),
        "median_frame": {"psnr": mean(psnr(median, real)), "ssim": mean(ssim(median, real))},
        "block_cm": {
            "decoded": mean(_centimetres(reader(decoded), truth)),
            "real_frames": mean(_centimetres(read, truth)),
            "linear_probe": mean(_centimetres(probe.predict(latents.double().numpy()), truth)),
        },
        "ahead": {str(steps): ahead(steps) for steps in AHEAD},
    }


def summary(results: dict) -> str:
    """Return the results as a few lines for people."""
    episodes, thing = results["episodes"], results["pictured"]
    flat = results["median_frame"]
    likeness = f"PSNR {_shown(results['psnr'], '.1f')} dB, SSIM {_shown(results['ssim'], '.3f')}"
    lines = [
        f"{results['task']}, imagination, seed {results['seed']}: {episodes['judged_frames']} frames of "
        f"{episodes['judged_episodes']} episodes ({episodes['judged_on']}), {results['size']} px",
        f"  {likeness}; of the median frame {flat['psnr']['mean']:.1f} dB, {flat['ssim']['mean']:.3f}",
        f"  error of the {thing} in cm: " + _errors(results["block_cm"]),
    ]
    for steps, ahead in results["ahead"].items():
        for name, words in (("all", "all windows"), ("moved", f"moved over {100 * MOVED:g} cm")):
            if ahead[name]["windows"]:
                lines.append(
                    f"  {steps} steps ahead, {ahead[name]['windows']} windows ({words}): "
                    + _errors(ahead[name]["block_cm"])
                )
    return "\n".join(lines)


def _errors(errors: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_shown(value, '.2f')}" for name, value in errors.items())


def _shown(value: dict, pattern: str) -> str:
    low, high = value["interval"]
    return f"{value['mean']:{pattern}} [{low:{pattern}}, {high:{pattern}}]"


class PictureReader:
    """Reads a position (N, 2) in m from pictures uint8 (N, H, W, 3), by a regression fitted on real frames.

    Where the task tells marks of a picture, they and their products go into a ridge regression; else the
    picture's 16 x 16 pixels go into an MLP. ``validation`` (N,) marks the frames that choose strength and
    stopping.
    """

    def __init__(self, task, frames: np.ndarray, positions: np.ndarray, validation: np.ndarray, seed: int):
        self._task = task
        marked = task.marks(frames[:1]) is not None
        self._features = self._products if marked else shrunk_pixels
        x = self._features(frames).astype(np.float64)
        parts = x[~validation], positions[~validation], x[validation], positions[validation]
        self._regression = LinearProbe(*parts) if marked else MLPProbe(*parts, seed)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Return the positions (N, 2) in m."""
        return self._regression.predict(self._features(pictures).astype(np.float64))

    def _products(self, pictures: np.ndarray) -> np.ndarray:
        marks = np.concatenate([self._task.marks(part) for part in _parts(pictures)])
        i, j = np.triu_indices(marks.shape[1])
        return np.concatenate([marks, marks[:, i] * marks[:, j]], axis=1)


def decode(decoder: Decoder, latents: Tensor) -> np.ndarray:
    """Return pictures uint8 (N, size, size, 3) of latents (N, D)."""
    return np.concatenate([decoder.pictures(part) for part in latents.split(_BATCH)])


def psnr(pictures: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the peak signal-to-noise ratio (N,) in dB of pictures uint8 (N, H, W, 3); at most 100."""
    pairs = zip(_parts(pictures), _parts(real), strict=True)
    errors = [np.square(a.astype(np.float32) - b).mean((1, 2, 3)) for a, b in pairs]
    return -10 * np.log10(np.maximum(np.concatenate(errors) / 255**2, 1e-10))


def ssim(pictures: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the structural similarity (N,) of pictures uint8 (N, H, W, 3), the mean over pixels and colours.

    Wang et al. 2004, equation 13, in a Gaussian window with a standard deviation of 1.5 pixels.
    """
    return np.array([_ssim(a, b) for a, b in zip(pictures, real, strict=True)])


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    def blur(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, (11, 11), _SIGMA, borderType=cv2.BORDER_REFLECT)

    a, b = a.astype(np.float64) / 255, b.astype(np.float64) / 255
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    return float((likeness / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))).mean())


def mean_and_interval(values: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> dict:
    """Return the mean of ``values`` (N,), its 95 % interval, the median and the 90th percentile.

    The interval is a bootstrap's over the groups (N,) that the values belong to, because those of an episode
    are alike.
    """
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    sums, sizes = np.bincount(group, values, count), np.bincount(group, minlength=count)
    drawn = rng.integers(count, size=(_RESAMPLES, count))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return {
        "mean": float(values.mean()),
        "interval": [float(bound) for bound in np.quantile(means, (0.025, 0.975))],
        "median": float(np.median(values)),
        "p90": float(np.quantile(values, 0.9)),
    }


@torch.inference_mode()
def open_loop(
    model: LeWorldModel, recordings: list[Recording], latents: Tensor, steps: int
) -> tuple[np.ndarray, Tensor]:
    """Return the latents (N, D) predicted ``steps`` ahead from every full history, by what was then done.

    ``latents`` are those of all frames in order; with them come the rows (N,) of the histories' first frames.
    """
    history, fast = model.config.history, FastRollout(model)
    starts, imagined, first = [np.zeros(0, np.int64)], [latents[:0]], 0
    for recording in recordings:
        length = len(recording.pixels)
        rows = torch.arange(max(0, length - history - steps + 1))[:, None]
        if len(rows):
            seen = latents[first + rows + torch.arange(history)]
            acted = torch.from_numpy(recording.blocks)[rows + torch.arange(history - 1 + steps)]
            futures = fast.rollout(seen, acted[:, : history - 1], acted[:, None, history - 1 :])
            imagined.append(futures[:, 0, -1])
            starts.append(first + rows[:, 0].numpy())
        first += length
    return np.concatenate(starts), torch.cat(imagined)


def _centimetres(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return 100 * np.linalg.norm(found - truth, axis=1)


def _resized(frames: np.ndarray, size: int) -> np.ndarray:
    return frames if frames.shape[1] == size else np.stack([resize_frame(frame, size) for frame in frames])


def _parts(pictures: np.ndarray) -> list[np.ndarray]:
    return [pictures[i : i + _BATCH] for i in range(0, len(pictures), _BATCH)]
