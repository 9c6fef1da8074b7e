"""What test_ranks.py starts with torchrun: compares gradients, or trains a tiny model."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from world_model_ros.cli import main
from world_model_ros.model.config import ModelConfig
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.training import train
from world_model_ros.training.loop import training_loss
from world_model_ros.training.ranks import joined, share_batch_norm

CLIPS = 128


def tiny(action_dim: int) -> ModelConfig:
    """A model with BatchNorm in the encoder too, and nothing random in it."""
    return ModelConfig(
        encoder="conv",
        image_size=16,
        action_dim=action_dim,
        latent_dim=8,
        history=3,
        encoder_width=32,
        projector_hidden=32,
        action_hidden=16,
        predictor_width=16,
        predictor_depth=1,
        predictor_heads=2,
        predictor_head_dim=8,
        predictor_mlp=32,
        dropout=0.0,
        channels=(8, 8),
        encoder_norm="batch",
    )


def step(ranks=None, indices=slice(None)):
    """Return SIGReg, the gradients and BatchNorm's statistics of one step on the clips ``indices``."""
    torch.manual_seed(0)
    model = LeWorldModel(tiny(4))
    if ranks:
        share_batch_norm(model, ranks)
    pixels, blocks = torch.randn(CLIPS, 4, 3, 16, 16), torch.randn(CLIPS, 4, 4)
    directions = torch.nn.functional.normalize(torch.randn(8, 64), dim=0)
    losses = training_loss(model, pixels[indices], blocks[indices], directions, 0.09, ranks)
    losses.total.backward()
    prediction = losses.prediction
    if ranks:
        (prediction,) = ranks.mean_gradients(model.parameters(), prediction)
    values = {"sigreg": losses.sigreg.detach(), "prediction": prediction.detach()}
    values |= {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return values | dict(model.named_buffers())


def compare(out: Path) -> None:
    """Write how far each value of two ranks is from that of one process: relative, from 0.1 on."""
    with joined("cpu") as ranks:
        shared = step(ranks, ranks.part(np.arange(CLIPS)))
        whole = step()
        apart = {
            k: float((shared[k] - v).abs().max() / v.abs().max().clamp_min(0.1)) for k, v in whole.items()
        }
        (out / f"{ranks.rank}.json").write_text(json.dumps(apart))
    ranks.leave(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "compare":
        compare(Path(sys.argv[2]))
    else:
        Path(sys.argv[1], f"pid{os.environ['RANK']}").write_text(str(os.getpid()))
        train._SIZES["small"] = tiny
        raise SystemExit(main(sys.argv[2:]))
