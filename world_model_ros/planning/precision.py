"""How precisely a model imagines: bfloat16 is half the bytes, and twice the products where the chip can."""

import torch

from world_model_ros.model.imagination import Imagination
from world_model_ros.model.lewm import LeWorldModel

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def for_planning(model: LeWorldModel, precision: str = "fp32") -> Imagination:
    """Return what rolls out as ``model`` does, with a copy of its weights laid out for that.

    Latents come in and go out as float32: where a plan is judged stays as it was, because distances of
    neighbouring latents are small differences.
    """
    with torch.inference_mode(False), torch.no_grad():
        return Imagination(model, PRECISIONS[precision], packed=True)
