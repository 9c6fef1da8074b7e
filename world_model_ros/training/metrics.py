"""Metrics of training: one-step error, copy error, collapse and overfitting."""

import contextlib

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.clips import Clips
from world_model_ros.model.config import ImageSpec
from world_model_ros.model.encoder import normalise_pixels, prepare_images
from world_model_ros.model.lewm import LeWorldModel

BATCH = 64  # clips encoded at a time
COLLAPSED_STD = 0.1
COLLAPSED_RANK = 2.0
OVERFIT_RATIO = 1.25  # of held-out to training error: above it, more episodes help


def effective_rank(latents: Tensor) -> float:
    """Return exp(entropy of the covariance's normalised eigenvalues) of latents (N, D), from 0 to D.

    The number of directions that the latents use (Roy & Vetterli 2007). 0 where they do not vary.
    """
    values = latents.detach().double()
    centred = values - values.mean(0)
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred / max(1, len(values) - 1)).clamp_min(0)
    total = eigenvalues.sum()
    if not torch.isfinite(total) or total <= 1e-12:
        return 0.0
    shares = eigenvalues / total
    shares = shares[shares > 1e-12]
    return float(torch.exp(-(shares * shares.log()).sum()))


def latent_std(latents: Tensor) -> float:
    """Return the standard deviation over N of latents (N, D), averaged over D; SIGReg drives it to 1."""
    return float(latents.detach().float().std(0).mean())


def copy_error(latents: Tensor) -> float:
    """Return the error of predicting that nothing changes, from latents (B, T, D)."""
    values = latents.detach().float()
    return float((values[:, 1:] - values[:, :-1]).square().mean())


def latent_metrics(latents: Tensor) -> dict[str, float]:
    """Return copy error, standard deviation and effective rank of latents (B, T, D)."""
    flat = latents.detach().flatten(0, 1)
    return {
        "copy": copy_error(latents),
        "latent_std": latent_std(flat),
        "effective_rank": effective_rank(flat),
    }


def looks_collapsed(metrics: dict[str, float]) -> bool:
    """Return whether the latents have (nearly) become one point or one line."""
    return metrics["latent_std"] < COLLAPSED_STD or metrics["effective_rank"] < COLLAPSED_RANK


def overfits(metrics: dict[str, float]) -> bool:
    """Return whether the held-out error exceeds the error on training episodes by ``OVERFIT_RATIO``."""
    return metrics["prediction"] > OVERFIT_RATIO * metrics["prediction_seen"]


@contextlib.contextmanager
def evaluation_mode(model: LeWorldModel):
    """Put the model into evaluation mode for the block, without gradients."""
    training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(training)


def encode_clips(model: LeWorldModel, clips: Clips, image: ImageSpec, indices=None) -> tuple[Tensor, Tensor]:
    """Return latents (N, T, D) and the blocks leaving them (N, T, A) of clips, on the CPU."""
    indices = np.arange(len(clips)) if indices is None else np.asarray(indices)
    latents, leaving = [], []
    with evaluation_mode(model):
        for start in range(0, len(indices), BATCH):
            pixels, blocks = clips.batch(indices[start : start + BATCH])
            latents.append(model.encode(_prepared(pixels, model, image)).cpu())
            leaving.append(torch.from_numpy(blocks))
    return torch.cat(latents), torch.cat(leaving)


@torch.no_grad()
def encode_frames(model: LeWorldModel, pixels: np.ndarray, image: ImageSpec, batch: int = 256) -> Tensor:
    """Return latents (N, D) of frames uint8 (N, H, W, 3), on the CPU, in the model's present mode."""
    starts = range(0, len(pixels), batch)
    return torch.cat([model.encode(_prepared(pixels[i : i + batch], model, image)).cpu() for i in starts])


def _prepared(pixels: np.ndarray, model: LeWorldModel, image: ImageSpec) -> Tensor:
    device = next(model.parameters()).device
    if pixels.shape[-3:-1] == (image.size, image.size):
        return normalise_pixels(torch.from_numpy(pixels).to(device), image)
    prepared = prepare_images(pixels.reshape(-1, *pixels.shape[-3:]), image).to(device)
    return prepared.view(*pixels.shape[:-3], *prepared.shape[-3:])


def validate(model: LeWorldModel, clips: Clips, image: ImageSpec, indices=None) -> dict[str, float]:
    """Return the metrics of held-out clips: prediction, copy, ratio, latent_std, effective_rank.

    ``prediction`` is the training loss's: the mean square over all positions of a clip.
    """
    latents, blocks = encode_clips(model, clips, image, indices)
    device = next(model.parameters()).device
    with evaluation_mode(model):
        predictions = [
            model.predict(z[:, :-1].to(device), a[:, :-1].to(device)).cpu()
            for z, a in zip(latents.split(BATCH), blocks.split(BATCH), strict=True)
        ]
    metrics = latent_metrics(latents)
    metrics["prediction"] = float((torch.cat(predictions) - latents[:, 1:]).square().mean())
    metrics["ratio"] = metrics["prediction"] / max(metrics["copy"], 1e-12)
    return metrics
