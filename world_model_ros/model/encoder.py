"""The image encoders and their input, made from camera frames.

The published ViT, and strided convolutions, which are several times as fast on CPUs.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model_ros.model.config import ImageSpec, ModelConfig
from world_model_ros.model.frames import resize_frame

_NORM_EPS = 1e-12


def normalise_pixels(pixels: Tensor, image: ImageSpec) -> Tensor:
    """Turn uint8 pixels (..., H, W, 3) into float32 (..., 3, H, W), minus mean over deviation."""
    # One affine map per channel, in place: training does this for every frame of every batch. Whole rows of
    # the picture are what a processor's vector instructions are fast with, three channels are not.
    width = pixels.shape[-2]
    std = torch.tensor(image.std, device=pixels.device)
    mean = torch.tensor(image.mean, device=pixels.device)
    rows = pixels.to(torch.float32).flatten(-2)
    rows.mul_((1 / (255 * std)).repeat(width)).sub_((mean / std).repeat(width))
    return rows.unflatten(-1, (width, 3)).movedim(-1, -3)


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


class VisionTransformer(nn.Module):
    """Pre-norm ViT with a CLS token and learned positions (Dosovitskiy et al. 2021).

    Its state-dict keys are those of the published weights.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.encoder_depth))
        self.layernorm = nn.LayerNorm(config.encoder_width, eps=_NORM_EPS)
        self.apply(_initialise)

    def tokens(self, images: Tensor) -> Tensor:
        """Turn images (N, 3, H, W) into normalised tokens (N, 1 + patches, width), CLS first."""
        tokens = self.embeddings(images)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.layernorm(tokens)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (N, 3, H, W) into features (N, width): the CLS token after the last norm.

        Raises ValueError when a side is no multiple of the patch.
        """
        return self.tokens(images)[:, 0]


class _Embeddings(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.grid = config.image_size // config.patch_size
        width = config.encoder_width
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.empty(1, 1 + self.grid**2, width))
        self.patch_embeddings = nn.ModuleDict(
            {"projection": nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)}
        )
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.position_embeddings, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"images of {height} x {width} do not divide into patches of {self.patch_size}")
        patches = self.patch_embeddings["projection"](images)  # (N, width, rows, columns)
        positions = self._positions(*patches.shape[-2:])
        patches = patches.flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + positions

    def _positions(self, rows: int, columns: int) -> Tensor:
        if rows == columns == self.grid:
            return self.position_embeddings
        cls, patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        patches = patches.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([cls, patches.flatten(2).transpose(1, 2)], dim=1)


class _Layer(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.encoder_width
        self.heads = config.encoder_heads
        self.attention = nn.ModuleDict(
            {name: nn.Linear(width, width) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
        )
        self.layernorm_before = nn.LayerNorm(width, eps=_NORM_EPS)
        self.layernorm_after = nn.LayerNorm(width, eps=_NORM_EPS)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, config.encoder_mlp), "fc2": nn.Linear(config.encoder_mlp, width)}
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attend(self.layernorm_before(tokens))
        return tokens + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.layernorm_after(tokens))))

    def _attend(self, tokens: Tensor) -> Tensor:
        q, k, v = (
            self.attention[name](tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        mixed = F.scaled_dot_product_attention(q, k, v)  # (N, heads, tokens, head_dim)
        return self.attention["o_proj"](mixed.transpose(1, 2).flatten(2))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


class ConvEncoder(nn.Module):
    """Strided convolutions (4x4/4, then 3x3/2 each), one linear layer, LayerNorm.

    With ``encoder_norm`` "group" GroupNorm and SiLU follow each convolution; with "batch" BatchNorm and
    ReLU, which train twice as fast in bf16 on CPUs (and fold into the convolutions at run time).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        stages, inputs = [], 3
        for index, outputs in enumerate(config.channels):
            kernel, stride, padding = (4, 4, 0) if index == 0 else (3, 2, 1)
            stages.append(nn.Conv2d(inputs, outputs, kernel, stride, padding))
            if config.encoder_norm == "group":
                stages += [nn.GroupNorm(8, outputs), nn.SiLU()]
            else:
                stages += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        side = config.image_size // (2 << len(config.channels))
        self.image_size = config.image_size
        self.head = nn.Linear(inputs * side * side, config.encoder_width)
        self.norm = nn.LayerNorm(config.encoder_width)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (N, 3, H, W) into features (N, width). Raises ValueError for another size."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"images are {tuple(images.shape[-2:])}, the encoder takes {self.image_size}")
        # channels last is what the CPU's convolutions are fastest with
        features = self.stages(images.contiguous(memory_format=torch.channels_last))
        return self.norm(self.head(features.flatten(1)))
