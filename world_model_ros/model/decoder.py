"""A picture of a latent, for people's eyes: the world model never sees it, and no plan is judged by it.

It learns on the frozen latents of a trained model (training/decoder.py).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST = 4  # pixels a side of the first feature map
NARROWEST = 32  # channels
GROUPS = 8  # of channels that are normalised together


class Decoder(nn.Module):
    """Latents to RGB pictures: a small convolutional network that doubles the picture's side at each stage.

    What never moves is one learned picture, ``background``; the network adds what a latent says beside it.
    ``size`` is 4 times a power of two, ``width`` the channels of the first stages; each later stage has half
    of those before. The picture is the central square of the camera's, as the encoder sees it.
    """

    def __init__(self, latent_dim: int, size: int = 64, width: int = 128):
        super().__init__()
        self.size = size
        stages = (size // FIRST).bit_length() - 2  # the last doubling is the one of pixel_shuffle
        channels = [width] + [max((width >> i) // GROUPS * GROUPS, NARROWEST) for i in range(stages)]
        self.enter = nn.Sequential(
            nn.Linear(latent_dim, 2 * width), nn.SiLU(), nn.Linear(2 * width, width * FIRST * FIRST)
        )
        self.stages = nn.ModuleList(_Stage(*pair) for pair in zip(channels, channels[1:], strict=False))
        self.leave = nn.Conv2d(channels[-1], 3 * 4, 3, padding=1)
        self.background = nn.Parameter(torch.zeros(3, size, size))  # before the sigmoid

    def forward(self, latents: Tensor) -> Tensor:
        """Return pictures (..., 3, size, size) in [0, 1] of latents (..., D)."""
        features = self.enter(latents.reshape(-1, latents.shape[-1])).unflatten(1, (-1, FIRST, FIRST))
        for stage in self.stages:
            features = stage(features)
        pictures = torch.sigmoid(F.pixel_shuffle(self.leave(features), 2) + self.background)
        return pictures.reshape(*latents.shape[:-1], *pictures.shape[1:])

    @torch.inference_mode()
    def pictures(self, latents: Tensor) -> np.ndarray:
        """Return RGB pictures uint8 (..., size, size, 3) of latents (..., D), on whatever device they are."""
        decoded = self(latents.to(self.background)).movedim(-3, -1)
        return (decoded * 255).round().to(torch.uint8).cpu().numpy()


class _Stage(nn.Module):
    """Doubles the side of feature maps, then adds what two convolutions see in them."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.change = nn.Conv2d(inputs, outputs, 1)
        self.convolutions = nn.Sequential(
            nn.GroupNorm(GROUPS, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.GroupNorm(GROUPS, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        features = F.interpolate(self.change(features), scale_factor=2, mode="nearest")
        return features + self.convolutions(features)
