"""Random draws for the solvers, the same for a problem whatever is solved beside it."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """Standard normal draws (B, S, H, A), each problem from a generator of its own.

    So a problem gets the same noise alone and in any batch. A block of A numbers is ``block`` control
    steps; ``correlation`` links neighbouring steps across block borders, at unit variance.
    """

    def __init__(self, generators: Sequence[torch.Generator], shape, block: int, correlation: float = 0.0):
        self.generators = generators
        self.samples, self.horizon, self.width = shape
        self.block = block
        self.filter = _ar1_filter(self.horizon * block, correlation) if correlation else None

    def __call__(self) -> Tensor:
        """Return the draws of one iteration; the generators move on."""
        shape = (self.samples, self.horizon, self.width)
        white = torch.stack([torch.randn(shape, generator=g, device=g.device) for g in self.generators])
        if self.filter is None:
            return white
        steps = white.unflatten(-1, (self.block, -1)).flatten(2, 3)  # (B, S, control steps, dim)
        linked = torch.einsum("ts,bksd->bktd", self.filter.to(white.device), steps)
        return linked.unflatten(2, (self.horizon, self.block)).flatten(3)


def _ar1_filter(steps: int, correlation: float) -> Tensor:
    """Return the lower triangle (steps, steps) that turns white noise into AR(1) noise of unit variance."""
    lag = torch.arange(steps)[:, None] - torch.arange(steps)
    matrix = torch.where(lag >= 0, correlation ** lag.clamp(min=0).float(), 0.0)
    matrix[:, 1:] *= (1 - correlation**2) ** 0.5
    return matrix
