"""The cross-entropy method over sequences of action blocks (CEM), and its sample-efficient form (iCEM).

``CEM.published`` is the solver of LeWM (Maes et al. 2026, 3.3): white noise, no action limits, the last mean
is the plan. By default the noise is correlated in time, and candidates stay inside the action limits.

Shapes: B problems, S candidates, H horizon in blocks, A one action block, z-scored.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

Limits = tuple[Tensor, Tensor]  # lowest and highest z-scored action block (A,)
Cost = Callable[[Tensor], Tensor]  # candidates (B, S, H, A) -> costs (B, S), infinite for impossible ones


@dataclass(frozen=True)
class Solution:
    """The sampling distribution after an iteration, and the plan that it stands for."""

    mean: Tensor  # (B, H, A), of the distribution
    std: Tensor  # (B, H, A)
    actions: Tensor  # (B, H, A), the plan
    cost: Tensor  # (B,), what the plan is estimated to cost; infinite where no candidate has a finite cost
    kept: Tensor | None = None  # (B, K, H, A), elites that compete in the next iteration too
    index: Tensor | None = None  # (B,), of the plan among the last candidates, where it is one of them
    iterations: int = 0  # that were done
    candidates: int = 0  # that were evaluated, for each problem
    # What planner.py adds: the imagined latents after each block of the plan and their distances to the goal;
    # where the moment of arrival is free, also those after one block of standing still.
    latents: Tensor | None = None  # (B, H, D)
    distances: Tensor | None = None  # (B, H)
    still_latent: Tensor | None = None  # (B, D)
    still_distance: Tensor | None = None  # (B,)
    sample: Tensor | None = None  # (B, S, H, A), some of the last candidates, to be shown
    stands_still: bool = False  # whether the plan is to stand still, because no other is better by enough


@dataclass(frozen=True)
class CEM:
    """Cross-entropy method: sample, keep the elites, refit the distribution to them, repeat."""

    samples: int = 64
    elites: int = 8
    iterations: int = 4
    initial_std: float = 1.0
    # Of the noise, between neighbouring control steps. White noise (0) averages out over a block, so that
    # candidates hardly leave the place they start from.
    correlation: float = 0.9
    proposal_std: float = 0.5  # of the noise on proposals, which are better than chance
    decay: float = 1.0  # by which each further iteration divides the number of candidates (iCEM's gamma)

    capturable: ClassVar[bool] = True  # whether a CUDA graph can hold a solve

    @classmethod
    def published(cls, samples: int = 300, elites: int = 30, iterations: int = 30) -> "CEM":
        """Return the paper's solver with its published sizes; give ``solve`` no limits with it."""
        return cls(samples, elites, iterations, initial_std=1.0, correlation=0.0)

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

    def solve(
        self,
        cost: Cost,
        mean: Tensor,
        noise: Callable[[], Tensor],
        limits: Limits | None = None,
        proposals: Tensor | None = None,
        deadline: float | None = None,
    ) -> Solution:
        """Minimise ``cost``, starting from ``mean`` (B, H, A).

        noise() returns an iteration's standard normal draws (B, S, H, A), see ``Noise``. limits are the
        lowest and highest z-scored action block (A,), or None for the published, unlimited solve.
        proposals (B, P, H, A) share half of the first candidates: each as it is, then with noise of
        ``proposal_std``. deadline is a moment of ``time.perf_counter``: no iteration but the first begins
        that would, as long as the one before, end after it.
        """
        std = torch.full_like(mean, self.initial_std)
        solution = Solution(mean, std, actions=mean, cost=mean.new_full((len(mean),), torch.inf))
        for iteration in range(self.iterations):
            began = time.perf_counter()
            candidates = self._sample(solution, noise()[:, : self.population(iteration)], proposals)
            proposals = None
            if limits is not None:
                candidates = candidates.clamp(*limits)
            evaluated = solution.candidates + candidates.shape[1]
            solution = self._refit(solution, candidates, cost(candidates))
            solution = replace(solution, iterations=iteration + 1, candidates=evaluated)
            if deadline is not None:
                now = _now(mean.device)
                if now + (now - began) > deadline:
                    break
        return solution

    def population(self, iteration: int) -> int:
        """Return how many candidates an iteration draws; twice the elites at least."""
        least = min(2 * self.elites, self.samples)
        return max(least, round(self.samples / self.decay**iteration))

    def _sample(self, last: Solution, normal: Tensor, proposals: Tensor | None) -> Tensor:
        """Return candidates (B, S, H, A); the first is the mean, the last are proposals or kept elites."""
        candidates = normal * last.std[:, None] + last.mean[:, None]
        candidates[:, 0] = last.mean
        if proposals is not None:
            samples, count = normal.shape[1], proposals.shape[1]
            half = samples // 2
            slots = torch.arange(samples - half, device=normal.device) % count
            noisy = normal[:, half:] * self.proposal_std
            noisy[:, :count] = 0
            candidates[:, half:] = proposals[:, slots] + noisy
        if last.kept is not None:
            candidates[:, candidates.shape[1] - last.kept.shape[1] :] = last.kept
        return candidates

    def _refit(self, last: Solution, candidates: Tensor, costs: Tensor) -> Solution:  # noqa: ARG002
        """Return the next distribution, from candidates (B, S, H, A) and their costs (B, S)."""
        elites, costs, _ = self._choose_elites(candidates, costs)
        mean = elites.mean(1)
        return Solution(mean, elites.std(1), actions=mean, cost=costs.mean(1))

    def _choose_elites(self, candidates: Tensor, costs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the cheapest candidates (B, elites, H, A), the cheapest first; their costs and indices."""
        costs, indices = costs.topk(self.elites, dim=1, largest=False)
        problems = torch.arange(len(candidates), device=candidates.device)[:, None]
        return candidates[problems, indices], costs, indices


@dataclass(frozen=True)
class ICEM(CEM):
    """Sample-efficient CEM (Pinneri et al. 2020, arXiv 2008.06389).

    Besides the noise correlated in time and the shifted warm start, which all solvers have here: a share of
    the elites competes again, each iteration draws fewer candidates, the best one seen is the plan.
    """

    decay: float = 1.25  # the paper's gamma
    kept_share: float = 0.3  # of the elites
    momentum: float = 0.1  # weight of the last mean and std

    def _refit(self, last: Solution, candidates: Tensor, costs: Tensor) -> Solution:
        elites, costs, indices = self._choose_elites(candidates, costs)
        kept = elites[:, : max(1, round(self.kept_share * self.elites))]
        momentum = 0.0 if last.kept is None else self.momentum  # the first iteration has none
        mean = torch.lerp(elites.mean(1), last.mean, momentum)
        std = torch.lerp(elites.std(1), last.std, momentum)
        # The kept ones compete in every iteration, so the cheapest of this one is the cheapest of all.
        return Solution(mean, std, elites[:, 0], costs[:, 0], kept, indices[:, 0])


class Noise:
    """Standard normal draws (B, S, H, A), each problem from a generator of its own.

    So a problem gets the same noise alone and in any batch. A block of A numbers is ``block`` control
    steps; ``correlation`` links neighbouring steps across block borders (AR(1)), at unit variance.
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


@functools.lru_cache(maxsize=16)  # the same in every solve
def _ar1_filter(steps: int, correlation: float) -> Tensor:
    """Return the lower triangle (steps, steps) that turns white noise into AR(1) noise of unit variance."""
    lag = torch.arange(steps)[:, None] - torch.arange(steps)
    matrix = torch.where(lag >= 0, correlation ** lag.clamp(min=0).float(), 0.0)
    matrix[:, 1:] *= (1 - correlation**2) ** 0.5
    return matrix


def _now(device: torch.device) -> float:
    """Return the time when the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
