"""Camera frames to the encoder's input."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from world_model_ros.model.config import ImageSpec
from world_model_ros.model.frames import resize_frame


def normalise_pixels(pixels: Tensor, image: ImageSpec) -> Tensor:
    """Turn uint8 pixels (..., H, W, 3) into float32 (..., 3, H, W), minus mean over deviation."""
    # one affine map per channel, in place: training does this for every frame of every batch
    std = torch.tensor(image.std, device=pixels.device)
    mean = torch.tensor(image.mean, device=pixels.device)
    values = pixels.movedim(-1, -3).to(torch.float32)
    values.mul_((1 / (255 * std))[:, None, None])
    return values.sub_((mean / std)[:, None, None])


def prepare_images(frames: np.ndarray, image: ImageSpec) -> Tensor:
    """Turn uint8 frames (N, H, W, 3) into the encoder's input, float32 (N, 3, size, size).

    "area" cuts to the central square and area-averages the bytes, as recording does. "bilinear" is the
    published order: normalise, then resize with antialiasing (reference code); it too takes the central
    square, which for square frames is everything. Raises ValueError for another shape or dtype.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"frames are uint8 (N, H, W, 3), these are {frames.dtype} {frames.shape}")
    if image.resize == "area":
        frames = np.stack([resize_frame(frame, image.size) for frame in frames])
        return normalise_pixels(torch.from_numpy(frames), image)
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(frames[:, top : top + side, left : left + side])
    pixels = normalise_pixels(torch.from_numpy(square), image)
    if side == image.size:
        return pixels
    size = (image.size, image.size)
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
