"""The image encoder for CPUs: a few strided convolutions, several times as fast as a small ViT."""

import torch
from torch import Tensor, nn

from world_model_ros.model.config import ModelConfig


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
