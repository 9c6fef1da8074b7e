"""What every sampling solver does: draw candidate plans, ask what they cost, draw better ones.

Actions are in z-scored units. A solver only says how costs become the next draw (``_refit``).
"""

import abc
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Limits = tuple[Tensor, Tensor]  # lowest and highest z-scored action block (A,)
Cost = Callable[[Tensor], Tensor]  # candidates (B, S, H, A) -> costs (B, S), infinite for impossible ones


@dataclass(frozen=True)
class Solution:
    """What a solve found."""

    actions: Tensor  # (B, H, A), z-scored
    std: Tensor  # (B, H, A), of the draw that would follow
    cost: Tensor  # (B,), an estimate of what the plan costs; infinite where no candidate had a finite cost
    iterations: int  # that were done
    index: Tensor | None = None  # (B,), where the plan is one of the last iteration's candidates: which


@dataclass(frozen=True)
class Draw:
    """Where an iteration draws from, and what it takes along."""

    mean: Tensor  # (B, H, A)
    std: Tensor  # (B, H, A)
    cost: Tensor  # (B,)
    kept: Tensor | None = None  # (B, K, H, A): candidates that compete once more
    index: Tensor | None = None  # (B,), where the mean is one of the candidates just drawn: which


@dataclass(frozen=True)
class SamplingSolver(abc.ABC):
    """The loop that the solvers share."""

    samples: int = 64
    elites: int = 8
    iterations: int = 4
    initial_std: float = 1.0
    # Correlation of the noise between neighbouring control steps: an AR(1) process. White noise (0)
    # averages out over a block, so that candidates hardly leave the place they start from.
    correlation: float = 0.9
    proposal_std: float = 0.5  # of the noise on proposals, which are better than chance
    decay: float = 1.0  # how many times fewer candidates each further iteration draws (iCEM)

    def __post_init__(self):
        """Raise ValueError where the settings make no sense."""
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
        if not self.decay >= 1:
            raise ValueError(f"decay must be at least 1, it is {self.decay}")

    @property
    def recordable(self) -> bool:
        """Whether a CUDA graph can hold a solve."""
        return True

    def population(self, iteration: int) -> int:
        """Return how many candidates an iteration draws; twice the elites at least."""
        least = min(2 * self.elites, self.samples)
        return max(least, round(self.samples / self.decay**iteration))

    def effort(self, iterations: int) -> int:
        """Return how many candidates that many iterations imagine."""
        return sum(map(self.population, range(iterations)))

    def solve(
        self,
        cost: Cost,
        mean: Tensor,
        noise: Callable[[], Tensor],
        limits: Limits | None = None,
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
        draw = Draw(mean, torch.full_like(mean, self.initial_std), mean.new_full((len(mean),), torch.inf))
        done = 0
        while done < self.iterations:
            began = time.perf_counter()
            candidates = self._candidates(draw, noise()[:, : self.population(done)], proposals)
            proposals = None
            if limits is not None:
                candidates = candidates.clamp(*limits)
            draw = self._refit(draw, candidates, cost(candidates))
            done += 1
            if deadline is not None:
                now = _now(mean.device)
                if now + (now - began) > deadline:
                    break
        draw = self._polish(draw, cost, limits)
        return Solution(draw.mean, draw.std, draw.cost, done, draw.index)

    def _candidates(self, draw: Draw, normal: Tensor, proposals: Tensor | None) -> Tensor:
        """Return candidates (B, S, H, A); the first is the mean, the last are proposals and what is kept."""
        candidates = normal * draw.std[:, None] + draw.mean[:, None]
        candidates[:, 0] = draw.mean
        if proposals is not None:
            samples, count = normal.shape[1], proposals.shape[1]
            half = samples // 2
            slots = torch.arange(samples - half, device=normal.device) % count
            noisy = normal[:, half:] * self.proposal_std
            noisy[:, :count] = 0
            candidates[:, half:] = proposals[:, slots] + noisy
        if draw.kept is not None:
            candidates[:, candidates.shape[1] - draw.kept.shape[1] :] = draw.kept
        return candidates

    @abc.abstractmethod
    def _refit(self, draw: Draw, candidates: Tensor, costs: Tensor) -> Draw:
        """Return where the next iteration draws, from this one's candidates (B, S, H, A) and costs (B, S)."""

    def _polish(self, draw: Draw, cost: Cost, limits: Limits | None) -> Draw:  # noqa: ARG002
        """Return what the last refit found, its mean being the plan."""
        return draw


def _now(device: torch.device) -> float:
    """Return the time when the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def best(candidates: Tensor, costs: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ``count`` cheapest of candidates (B, S, H, A), the cheapest first; their costs; which."""
    costs, indices = costs.topk(count, dim=1, largest=False)
    batch = torch.arange(len(candidates), device=candidates.device)[:, None]
    return candidates[batch, indices], costs, indices
