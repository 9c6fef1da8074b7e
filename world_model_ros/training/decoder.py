"""Fits the picture decoder to a trained world model's frozen latents: for people's eyes, never a loss of it.

Most of a frame never changes and what matters in it is small. So an error counts more where the frame differs
from the median frame, and the errors of the differences between neighbouring pixels count too (the gradient
difference loss of Mathieu et al. 2016, arXiv 1511.05440, equation 6 with alpha = 1): without it edges blur.
"""

import math

import numpy as np
import torch
from torch import Tensor

from world_model_ros.data.clips import Clips
from world_model_ros.model.checkpoint import multiplies_in_bf16
from world_model_ros.model.config import ImageSpec
from world_model_ros.model.decoder import Decoder
from world_model_ros.model.frames import resize_frame
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.training.metrics import encode_frames
from world_model_ros.training.progress import Progress, counted

SIZE, WIDTH = 64, 128  # of the decoder
STEPS = 3000  # by default
BATCH = 32
RATE, WARM_UP, WEIGHT_DECAY = 2e-3, 100, 1e-3
FRAMES = 60_000  # of the training episodes, encoded for it
ENCODED = 4096  # of them at a time
JUDGED = 2000  # held-out frames
LATENT_NOISE_STD = 0.05  # the latents that are shown later are also predicted ones, which are not exact
# An error counts up to 1 + CHANGED times as much, that much where a pixel is FULL away from the median frame.
CHANGED, FULL = 8.0, 0.15
EDGES = 1.0  # weight of the gradient difference loss
_MEDIAN_OF = 400  # frames
_DARKEST = 0.02  # of the background: the sigmoid never gets to 0 or 1


def fit_decoder(
    model: LeWorldModel, clips: Clips, image: ImageSpec, steps: int, seed: int = 0, size: int = SIZE
) -> Decoder:
    """Return a decoder fitted for ``steps`` steps to the frames of ``clips`` and their latents.

    Frames are read batch by batch, wherever ``clips`` has them. The model's weights stay as they are.
    """
    device = next(model.parameters()).device
    rows = _some_rows(clips, min(FRAMES, steps * BATCH), seed)
    latents = encode_rows(model, clips, image, rows)
    generator = torch.Generator().manual_seed(seed)
    some = rows[torch.randperm(len(rows), generator=generator)[:_MEDIAN_OF].numpy()]
    median = targets(clips.pixels[np.sort(some)], size).median(0).values.to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = Decoder(latents.shape[1], size, WIDTH)
    decoder.background.data = torch.logit(median.cpu().clamp(_DARKEST, 1 - _DARKEST))
    decoder = decoder.to(device).train()
    fast = device.type == "cuda" or multiplies_in_bf16()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=fast)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    with Progress("decoder", steps) as progress:
        for step in range(steps):
            rate = RATE * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimiser.param_groups:
                group["lr"] = rate
            drawn = torch.randint(len(rows), (min(BATCH, len(rows)),), generator=generator)
            shown = latents[drawn]
            shown = shown + LATENT_NOISE_STD * torch.randn(shown.shape, generator=generator)
            wanted = targets(clips.pixels[rows[drawn.numpy()]], size).to(device)
            with autocast:
                decoded = decoder(shown.to(device))
            loss = picture_loss(decoded.float(), wanted, median)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            progress.update("" if step % 50 else f"loss {loss.item():.4f}")
    return decoder.eval().requires_grad_(False)


def picture_loss(decoded: Tensor, wanted: Tensor, median: Tensor) -> Tensor:
    """Return the loss of pictures (B, 3, H, W) in [0, 1]; ``median`` (3, H, W) is the median frame."""
    away = (wanted - median).abs().amax(1, keepdim=True)
    weight = 1 + CHANGED * (away / FULL).clamp(max=1)
    pixels = (weight * (decoded - wanted).abs()).mean()
    error = decoded - wanted
    edges = (error.diff(dim=2).abs() * _both(weight, 2)).mean()
    edges = edges + (error.diff(dim=3).abs() * _both(weight, 3)).mean()
    return pixels + EDGES * edges


@torch.no_grad()
def decoder_metrics(
    model: LeWorldModel, decoder: Decoder, held_out: Clips, image: ImageSpec, seed: int = 0
) -> dict[str, float]:
    """Return the mean PSNR in dB of decoded held-out frames, ``decoder_psnr``."""
    rows = _some_rows(held_out, JUDGED, seed)
    latents, device = encode_rows(model, held_out, image, rows), next(decoder.parameters()).device
    errors = []
    for part in torch.arange(len(rows)).split(64):
        wanted = targets(held_out.pixels[rows[part.numpy()]], decoder.size)
        decoded = decoder(latents[part].to(device)).cpu()
        errors.append((decoded - wanted).square().mean((1, 2, 3)))
    return {"decoder_psnr": float(-10 * torch.cat(errors).clamp_min(1e-10).log10().mean())}


def encode_rows(model: LeWorldModel, clips: Clips, image: ImageSpec, rows: np.ndarray) -> Tensor:
    """Return the latents (N, D) of frames of ``clips``, on the CPU.

    Part by part: the frames may be in a file because they do not fit into memory.
    """
    parts = [rows[i : i + ENCODED] for i in range(0, len(rows), ENCODED)]
    return torch.cat(
        [encode_frames(model, clips.pixels[parts[i]], image) for i in counted("frames", len(parts))]
    )


def targets(frames: np.ndarray, size: int) -> Tensor:
    """Return frames uint8 (N, H, W, 3) as pictures (N, 3, size, size) in [0, 1]."""
    if frames.shape[1:3] != (size, size):
        frames = np.stack([resize_frame(frame, size) for frame in frames])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def _both(weight: Tensor, dim: int) -> Tensor:
    """Return the larger weight of each two neighbours along ``dim``."""
    count = weight.shape[dim] - 1
    return torch.maximum(weight.narrow(dim, 0, count), weight.narrow(dim, 1, count))


def _some_rows(clips: Clips, count: int, seed: int) -> np.ndarray:
    """Return the rows of ``count`` frames drawn by ``seed``, of all that there are where they are fewer."""
    rows, _ = clips.model_steps()
    return np.sort(np.random.default_rng(seed).permutation(rows)[:count])
