"""One solve as a function of tensors: nothing in it waits for the value of one."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from world_model_ros.errors import UserError
from world_model_ros.planning.cuda_graph import CaptureError, Recorded
from world_model_ros.planning.noise import Noise
from world_model_ros.planning.objective import GoalDistance, WorldModel
from world_model_ros.planning.solver import SamplingSolver

_log = logging.getLogger(__name__)
# An estimate that lets no replay happen shrinks by this at each solve, so that one slow replay is forgotten.
DECAY = 0.9


@dataclass(frozen=True)
class Found:
    """What a solve found; the numbers are on the CPU."""

    actions: Tensor  # (H, A), z-scored
    imagined: Tensor  # (H, D), the latent after each block
    distances: list[float]  # H of them, of these to the goal, by the metric
    standing: Tensor | None  # (D,), the latent after a block of standing still; None unless any_time
    waiting: float  # its distance
    cost: float  # what the solver says that its plan costs
    iterations: int  # that were done
    candidates: int  # that were imagined


class Search:
    """A solver, a model and a metric on one device. On CUDA a solve is a graph, recorded once a shape.

    Where the moment of arrival is free, each model step until then costs ``time_cost``; a wide solve has
    ``first_solve_multiplier`` times the samples. A graph cannot stop half-way: where it would take longer
    than a deadline leaves, a solve goes without. Where none can be recorded, every solve goes without.
    """

    def __init__(
        self,
        model: WorldModel,
        metric: Callable[[Tensor, Tensor], Tensor],
        solver: SamplingSolver,
        limits: tuple[Tensor, Tensor],
        still: Tensor,
        block: int,
        device: torch.device,
        time_cost: float = 0.0,
        first_solve_multiplier: int = 1,
    ):
        self.model, self.metric, self.block, self.device = model, metric, block, device
        self.time_cost = time_cost
        self.halved = False
        self.limits = tuple(values.to(device) for values in limits)
        self.still = still.to(device)
        self.records = device.type == "cuda" and solver.recordable
        self._take(solver, replace(solver, samples=first_solve_multiplier * solver.samples))

    def _take(self, solver: SamplingSolver, wide: SamplingSolver) -> None:
        """Search with these from now on, the second where a solve is wide."""
        self.solvers = {False: solver, True: wide}  # by whether it is wide
        self._seconds = 0.0  # how long a replay is thought to take
        self._decay = DECAY
        kinds = [(any_time, wide) for any_time in (False, True) for wide in (False, True)]
        self._recorded = {kind: Recorded(self._whole(*kind), self.records) for kind in kinds}

    def __call__(
        self,
        generator: torch.Generator,
        any_time: bool,
        wide: bool = False,
        until: float | None = None,
        proposals: Tensor | None = None,
        **tensors: Tensor,
    ) -> Found:
        """Solve from ``latents`` (1, T, D) and ``past`` (1, T-1, A) towards ``goal`` (1, D).

        ``mean`` (1, H, A) is where the search starts, proposals (1, P, H, A) what else it tries first.
        ``any_time`` leaves the moment of arrival free, ``wide`` takes more samples. ``until`` is a moment
        of ``time.perf_counter``.
        Where the device's memory does not suffice, half the samples are used from then on; UserError
        where that is still too much.
        """
        given = {"generator": generator, "any_time": any_time, "wide": wide, "until": until}
        given["proposals"] = proposals
        try:
            return self._attempt(**given, **tensors)
        except torch.OutOfMemoryError:
            if self.halved:
                raise self._too_little() from None
        self.halved = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._take(*(replace(s, samples=max(s.elites, s.samples // 2)) for s in self.solvers.values()))
        _log.warning("too little memory for a solve: half the samples from now on")
        try:
            return self._attempt(**given, **tensors)
        except torch.OutOfMemoryError:
            raise self._too_little() from None

    def _too_little(self) -> UserError:
        return UserError(
            f"{self.device} has too little free memory even for half the samples: set samples lower, or end "
            "what else runs on it."
        )

    def _attempt(
        self,
        generator: torch.Generator,
        any_time: bool,
        wide: bool,
        until: float | None,
        proposals: Tensor | None,
        **tensors: Tensor,
    ) -> Found:
        solver = self.solvers[wide]
        if proposals is not None:
            tensors["proposals"] = proposals
        noise = Noise(
            [generator], (solver.samples, *tensors["mean"].shape[1:]), self.block, solver.correlation
        )
        iterations = solver.iterations
        began = time.perf_counter()
        if self.records and (until is None or began + self._seconds < until):
            draws = torch.stack([noise() for _ in range(iterations)])
            try:
                values = self._recorded[any_time, wide](**tensors, draws=draws)
            except CaptureError as error:
                self.records = False
                _log.warning(
                    "the solve cannot be recorded as a CUDA graph, planning is slower without: %s", error
                )
                noise = iter(draws.unbind()).__next__
            else:
                found = _read(values, iterations, solver.effort(iterations))
                if self._recorded[any_time, wide].replayed:
                    self._estimate(time.perf_counter() - began, until is None or time.perf_counter() < until)
                return found
        elif self.records:
            self._seconds *= self._decay
        values, iterations = self._solve(any_time, wide, noise, until, **tensors)
        return _read(values, iterations, solver.effort(iterations))

    def _estimate(self, seconds: float, in_time: bool) -> None:
        """Take how long a replay took; the more of them were late in a row, the later one is tried again."""
        self._decay = DECAY if in_time else math.sqrt(self._decay)
        self._seconds = max(seconds, self._seconds) if in_time else seconds

    def _whole(self, any_time: bool, wide: bool) -> Callable[..., tuple[Tensor, ...]]:
        """Return the solve as a function of tensors alone, the draws (iterations, 1, S, H, A) among them."""

        def solve(draws: Tensor, **tensors: Tensor) -> tuple[Tensor, ...]:
            return self._solve(any_time, wide, iter(draws.unbind()).__next__, None, **tensors)[0]

        return solve

    def _solve(
        self,
        any_time: bool,
        wide: bool,
        noise: Callable[[], Tensor],
        until: float | None,
        latents: Tensor,
        past: Tensor,
        goal: Tensor,
        mean: Tensor,
        proposals: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], int]:
        objective = GoalDistance(self.model, latents, past, goal, any_time, self.metric, self.time_cost)
        standing = []

        def cost(candidates: Tensor) -> Tensor:
            if not any_time or standing:
                return objective(candidates)
            # Standing still is imagined beside the first ones: alone it would take as long as ten of them.
            still = self.still.expand(len(candidates), 1, *candidates.shape[2:])
            costs = objective(torch.cat([candidates, still], dim=1))
            standing.append(objective.imagined[:, -1:, :1])
            return costs[:, :-1]

        solution = self.solvers[wide].solve(cost, mean, noise, self.limits, proposals, until)
        if solution.index is None:
            imagined = objective.imagine(solution.actions[:, None])
        else:  # what has been imagined already
            imagined = objective.imagined[:, solution.index]
        values = solution.actions[0], imagined[0, 0], objective.measure(imagined)[0, 0], solution.cost
        if any_time:
            values += (standing[0][0, 0, 0], objective.measure(standing[0])[0, 0])
        return values, solution.iterations


def _read(values: tuple[Tensor, ...], iterations: int, candidates: int) -> Found:
    actions, imagined, distances, cost, *standing = values
    # One wait for the device, for all of the numbers.
    scalars = [distances, cost, *(value.reshape(-1) for value in standing[1:])]
    numbers = torch.cat([actions.reshape(-1), *scalars]).cpu()
    actions, numbers = numbers[: actions.numel()].reshape(actions.shape), numbers[actions.numel() :].tolist()
    steps = len(distances)
    return Found(
        actions,
        imagined,
        numbers[:steps],
        standing[0] if standing else None,
        numbers[steps + 1] if standing else math.inf,
        numbers[steps],
        iterations,
        candidates,
    )
