"""A model that imagines in bfloat16: half the bytes, and twice the products or more where the chip can."""

import copy

import torch
from torch import Tensor, nn

PRECISIONS = ("fp32", "bf16")


class HalfPrecision:
    """The rollout of a copy of ``model`` in bfloat16; latents come in and go out as float32.

    Where a plan is judged stays as it was: distances of neighbouring latents are small differences.
    """

    def __init__(self, model: nn.Module):
        self.model = copy.deepcopy(model).to(torch.bfloat16)

    def rollout(self, latents: Tensor, history_actions: Tensor, candidates: Tensor) -> Tensor:
        """Return what ``model.rollout`` returns, rounded."""
        inputs = (values.to(torch.bfloat16) for values in (latents, history_actions, candidates))
        return self.model.rollout(*inputs).float()
