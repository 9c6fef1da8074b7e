"""What tells a learning model from a collapsing one."""

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.clips import Clips
from world_model_ros.model.config import ImageSpec
from world_model_ros.model.image import normalise_pixels
from world_model_ros.model.lewm import LeWorldModel

COLLAPSED_STD = 0.1
COLLAPSED_RANK = 2.0
BY_HEART = 1.25  # times the error on the training's own episodes: from there on, more of them help


def effective_rank(latents: Tensor) -> float:
    """Return exp(entropy of the covariance's normalised eigenvalues) of latents (N, D), from 0 to D.

    How many directions the latents really use (Roy & Vetterli 2007). 0 where they do not vary at all.
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


def latent_figures(latents: Tensor) -> dict[str, float]:
    """Return copy error, standard deviation and effective rank of latents (B, T, D)."""
    flat = latents.detach().flatten(0, 1)
    return {
        "copy": copy_error(latents),
        "latent_std": latent_std(flat),
        "effective_rank": effective_rank(flat),
    }


def looks_collapsed(figures: dict[str, float]) -> bool:
    """Whether the latents have (nearly) become one point or one line."""
    return figures["latent_std"] < COLLAPSED_STD or figures["effective_rank"] < COLLAPSED_RANK


def known_by_heart(figures: dict[str, float]) -> bool:
    """Whether the held-out error is that much larger than the error on the training's own episodes."""
    return figures["prediction"] > BY_HEART * figures["prediction_seen"]


@torch.no_grad()
def encode_clips(
    model: LeWorldModel, clips: Clips, image: ImageSpec, indices=None, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Return latents (N, T, D) and predictions (N, T - 1, D) of clips, on the CPU, in evaluation mode."""
    device = next(model.parameters()).device
    indices = np.arange(len(clips)) if indices is None else np.asarray(indices)
    training = model.training
    model.eval()
    latents, predictions = [], []
    for start in range(0, len(indices), batch):
        pixels, blocks = clips.batch(indices[start : start + batch])
        encoded = model.encode(normalise_pixels(torch.from_numpy(pixels).to(device), image))
        predicted = model.predict(encoded[:, :-1], torch.from_numpy(blocks).to(device)[:, :-1])
        latents.append(encoded.cpu())
        predictions.append(predicted.cpu())
    model.train(training)
    return torch.cat(latents), torch.cat(predictions)


@torch.no_grad()
def encode_frames(model: LeWorldModel, pixels: np.ndarray, image: ImageSpec, batch: int = 256) -> Tensor:
    """Return latents (N, D) of frames uint8 (N, H, W, 3), on the CPU, in the model's present mode."""
    device = next(model.parameters()).device
    parts = [
        model.encode(normalise_pixels(torch.from_numpy(pixels[i : i + batch]).to(device), image)).cpu()
        for i in range(0, len(pixels), batch)
    ]
    return torch.cat(parts)


def validate(model: LeWorldModel, clips: Clips, image: ImageSpec, indices=None) -> dict[str, float]:
    """Return the figures of held-out clips: prediction, copy, ratio, latent_std, effective_rank."""
    latents, predictions = encode_clips(model, clips, image, indices)
    figures = latent_figures(latents)
    figures["prediction"] = float((predictions - latents[:, 1:]).square().mean())
    figures["ratio"] = figures["prediction"] / max(figures["copy"], 1e-12)
    return figures
