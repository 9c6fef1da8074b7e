"""Image augmentation for training, so that latents do not depend on the camera's noise and light.

Every frame of a clip is disturbed independently. Changes from frame to frame cannot be predicted, so the
prediction error makes the encoder ignore them; a disturbance that lasted the whole clip would be encoded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE = 0.10  # largest standard deviation, of the full range
BRIGHTNESS = 0.4  # largest change of the gain
BALANCE = 0.2  # largest change of a channel's gain
BLUR = 0.02  # largest standard deviation, of the picture's side
PATCH = 0.33  # largest side of an occluding rectangle, of the picture's side


def augment(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return uint8 pixels (..., H, W, 3) whose frames get each disturbance with probability ``share``.

    Gain and white balance, blur, an occluding rectangle of one colour, and pixel noise, in the order in
    which a scene, a lens and a sensor make them; the strengths are uniform up to the constants above.
    """
    frames = pixels.flatten(0, -4).float()
    count, side = len(frames), frames.shape[-2]

    def chosen() -> Tensor:
        return (torch.rand(count, generator=generator) < share).nonzero().squeeze(1)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    some = chosen()
    gain = 1 + BRIGHTNESS * (2 * uniform(len(some), 1) - 1) + BALANCE * (2 * uniform(len(some), 3) - 1)
    frames[some] *= gain[:, None, None].to(frames.device)
    some = chosen()
    frames[some] = _blurred(frames[some], BLUR * side * uniform(len(some)).clamp_min(0.05))
    some = chosen()
    _occlude(frames, some, uniform(len(some), 2, 2), 255 * uniform(len(some), 3))
    some = chosen()
    noise = torch.randn(frames[some].shape, generator=generator).to(frames.device)
    strength = 255 * NOISE * uniform(len(some))
    frames[some] += noise * strength[:, None, None, None].to(frames.device)
    return frames.round_().clamp_(0, 255).to(torch.uint8).view(pixels.shape)


def _blurred(frames: Tensor, sigma: Tensor) -> Tensor:
    """Convolve frames (N, H, W, 3) with a Gaussian of ``sigma`` (N,) pixels each."""
    if not len(frames):
        return frames
    count, height, width, channels = frames.shape
    reach = max(1, int(3 * float(sigma.max())))
    taps = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(frames.device).repeat_interleave(channels, 0)
    # a group per frame and channel: each has its own kernel
    planes = frames.permute(0, 3, 1, 2).reshape(1, count * channels, height, width)
    for shape in ((-1, 1, 2 * reach + 1, 1), (-1, 1, 1, 2 * reach + 1)):
        weight = kernel.view(shape)
        pad = (0, 0, reach, reach) if shape[2] > 1 else (reach, reach, 0, 0)
        planes = F.conv2d(F.pad(planes, pad, mode="replicate"), weight, groups=count * channels)
    return planes.view(count, channels, height, width).permute(0, 2, 3, 1)


def _occlude(frames: Tensor, some: Tensor, placed: Tensor, colours: Tensor) -> None:
    """Paint a rectangle of ``colours`` (n, 3) into frames ``some``, in place.

    placed (n, 2, 2) in [0, 1): its place and its size, along height and width.
    """
    side = frames.shape[-2]
    sizes = (PATCH * side * placed[:, 1]).ceil().long()
    corners = (placed[:, 0] * (side - sizes + 1)).long()
    pieces = zip(some.tolist(), corners.tolist(), (corners + sizes).tolist(), colours, strict=True)
    for frame, (top, left), (bottom, right), colour in pieces:
        frames[frame, top:bottom, left:right] = colour.to(frames.device)
