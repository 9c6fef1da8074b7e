"""The cross-entropy method over sequences of action blocks, in z-scored action units.

``CEM.published`` is the paper's solver: white noise, no action limits, the last mean is the plan.
Ours by default: noise correlated in time, candidates inside the action limits, a warm start.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """What a solve found."""

    actions: Tensor  # (B, H, A), z-scored: the mean of the last elites
    std: Tensor  # (B, H, A): their standard deviation
    cost: Tensor  # (B,): their mean cost; infinite where no candidate had a finite one
    iterations: int  # that were done


@dataclass(frozen=True)
class CEM:
    """Cross-entropy method (paper, 3.3): sample, keep the elites, refit, repeat."""

    samples: int = 64
    elites: int = 8
    iterations: int = 4
    initial_std: float = 1.0
    # Correlation of the noise between neighbouring control steps: an AR(1) process. White noise (0)
    # averages out over a block, so that candidates hardly leave the place they start from.
    correlation: float = 0.9
    proposal_std: float = 0.5  # of the noise on proposals, which are better than chance

    def __post_init__(self):
        if not 2 <= self.elites <= self.samples:
            raise ValueError(
                f"elites must lie between 2 and samples, they are {self.elites} of {self.samples}"
            )
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, they are {self.iterations}")
        if not 0 < self.initial_std < float("inf"):
            raise ValueError(f"initial_std must be positive and finite, it is {self.initial_std}")
        if not 0 <= self.correlation < 1:
            raise ValueError(f"correlation must lie in [0, 1), it is {self.correlation}")

    @classmethod
    def published(cls, samples: int = 300, elites: int = 30, iterations: int = 30) -> "CEM":
        """Return the paper's solver with its published sizes; give ``solve`` no limits with it."""
        return cls(samples, elites, iterations, initial_std=1.0, correlation=0.0)

    def solve(
        self,
        cost: Callable[[Tensor], Tensor],
        mean: Tensor,
        noise: Callable[[], Tensor],
        limits: tuple[Tensor, Tensor] | None = None,
        proposals: Tensor | None = None,
        deadline: float | None = None,
    ) -> Solution:
        """Minimise ``cost``: (B, S, H, A) -> (B, S), starting from ``mean`` (B, H, A).

        noise() returns an iteration's standard normal draws (B, S, H, A), see ``Noise``. limits are the
        lowest and highest z-scored action block (A,), or None for the published, unlimited solve.
        proposals (B, P, H, A) share half of the first candidates: each as it is, then with noise of
        ``proposal_std``. deadline is a moment of ``time.perf_counter``: no iteration but the first begins
        that would, as long as the one before, end after it.
        """
        batch = torch.arange(len(mean), device=mean.device)[:, None]
        std = torch.full_like(mean, self.initial_std)
        done = 0
        while done < self.iterations:
            began = time.perf_counter()
            draws = noise()
            candidates = draws * std[:, None] + mean[:, None]
            candidates[:, 0] = mean
            if proposals is not None:
                self._propose(candidates, draws, proposals)
                proposals = None
            if limits is not None:
                candidates = candidates.clamp(*limits)
            costs = cost(candidates)
            elite_costs, indices = costs.topk(self.elites, dim=1, largest=False)
            elites = candidates[batch, indices]
            mean, std = elites.mean(1), elites.std(1)
            done += 1
            now = time.perf_counter()
            if deadline is not None and now + (now - began) > deadline:
                break
        return Solution(mean, std, elite_costs.mean(1), done)

    def _propose(self, candidates: Tensor, draws: Tensor, proposals: Tensor) -> None:
        """Let the later half of candidates (B, S, H, A) be ``proposals`` with ever other draws."""
        half, count = self.samples // 2, proposals.shape[1]
        slots = torch.arange(half, self.samples, device=candidates.device)
        noisy = draws[:, half:] * self.proposal_std
        noisy[:, :count] = 0
        candidates[:, half:] = proposals[:, (slots - half) % count] + noisy


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
