"""An optimisation that readers may skip: a solve as a CUDA graph, recorded once a shape, then replayed.

At the small sizes of planning, launching kernels takes longer than running them; a replay launches all of
them at once. ``SolveRunner`` gives the same solution as calling the solve itself.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from world_model_ros.errors import UserError
from world_model_ros.planning.cem import CEM, Noise, Solution

_log = logging.getLogger(__name__)
_WARM_UP = 3  # calls before the recording, in which libraries choose their kernels and buffers
# An estimate that lets no replay happen shrinks by this at each solve, so that it is tried again.
_DECAY = 0.9


class SolveRunner:
    """Runs ``solve(solver, free_arrival, noise, deadline, **tensors) -> Solution``, on CUDA as a graph.

    A first solve has ``first_solve_multiplier`` times the samples. A graph cannot stop half-way: where it
    would take longer than a deadline leaves, or where none can be recorded, ``solve`` is called directly.
    """

    def __init__(
        self,
        solve: Callable[..., Solution],
        solver: CEM,
        first_solve_multiplier: int,
        block: int,
        device: torch.device,
    ):
        self.solve, self.block, self.device = solve, block, device
        self.halved = False
        self.records = device.type == "cuda" and solver.capturable
        self._take(solver, replace(solver, samples=first_solve_multiplier * solver.samples))

    def _take(self, solver: CEM, first_solver: CEM) -> None:
        """Solve with these from now on, the second in a first solve."""
        self.solvers = {False: solver, True: first_solver}  # by whether it is a first solve
        self._seconds = 0.0  # estimate of how long a replay takes
        self._decay = _DECAY
        self._recorded = {
            (free_arrival, first): Recorded(
                partial(self._solve_draws, self.solvers[first], free_arrival), self.device.type == "cuda"
            )
            for free_arrival in (False, True)
            for first in (False, True)
        }

    def __call__(
        self, generator: torch.Generator, free_arrival: bool, first: bool, deadline: float | None, **tensors
    ) -> Solution:
        """Return the solution, its numbers on the CPU, its latents on the device.

        tensors are those of ``solve``, with the leading dimension of one problem; what is None is left out.
        ``first``: with more samples. ``deadline`` is a moment of ``time.perf_counter``.
        Where the device's memory does not suffice, half the samples are used from then on; UserError
        where that is still too much.
        """
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        try:
            return self._run(generator, free_arrival, first, deadline, tensors)
        except torch.OutOfMemoryError:
            if self.halved:
                raise self._too_little() from None
        self.halved = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._take(*(replace(s, samples=max(s.elites, s.samples // 2)) for s in self.solvers.values()))
        _log.warning("too little memory for a solve: half the samples from now on")
        try:
            return self._run(generator, free_arrival, first, deadline, tensors)
        except torch.OutOfMemoryError:
            raise self._too_little() from None

    def _too_little(self) -> UserError:
        return UserError(
            f"{self.device} has too little free memory even for half the samples: set samples lower, or end "
            "what else runs on it."
        )

    def _run(
        self,
        generator: torch.Generator,
        free_arrival: bool,
        first: bool,
        deadline: float | None,
        tensors: dict[str, Tensor],
    ) -> Solution:
        solver = self.solvers[first]
        shape = (solver.samples, *tensors["mean"].shape[1:])
        noise = Noise([generator], shape, self.block, solver.correlation)
        began = time.perf_counter()
        if self.records and (deadline is None or began + self._seconds < deadline):
            draws = torch.stack([noise() for _ in range(solver.iterations)])
            recorded = self._recorded[free_arrival, first]
            try:
                solution = recorded(**tensors, draws=draws)
            except CaptureError as error:
                self.records = False
                _log.warning(
                    "the solve cannot be recorded as a CUDA graph, planning is slower without: %s", error
                )
                noise = iter(draws.unbind()).__next__
            else:
                solution = _on_cpu(solution)
                if recorded.replayed:
                    now = time.perf_counter()
                    self._estimate(now - began, deadline is None or now < deadline)
                return solution
        elif self.records:
            self._seconds *= self._decay
        return _on_cpu(self.solve(solver, free_arrival, noise, deadline, **tensors))

    def _solve_draws(self, solver: CEM, free_arrival: bool, draws: Tensor, **tensors: Tensor) -> Solution:
        """Solve as a function of tensors alone, the draws (iterations, 1, S, H, A) among them."""
        return self.solve(solver, free_arrival, iter(draws.unbind()).__next__, None, **tensors)

    def _estimate(self, seconds: float, in_time: bool) -> None:
        """Take how long a replay took; the more of them were late in a row, the later one is tried again."""
        self._decay = _DECAY if in_time else math.sqrt(self._decay)
        self._seconds = max(seconds, self._seconds) if in_time else seconds


def _on_cpu(solution: Solution) -> Solution:
    """Return the solution with copies of its numbers on the CPU: one wait for the device, for all of them."""
    names = [
        name
        for name in ("actions", "distances", "cost", "still_distance")
        if getattr(solution, name) is not None
    ]
    values = [getattr(solution, name) for name in names]
    numbers = torch.cat([value.reshape(-1) for value in values]).cpu().split([v.numel() for v in values])
    return replace(
        solution, **{name: n.reshape(v.shape) for name, n, v in zip(names, numbers, values, strict=True)}
    )


@dataclass(frozen=True)
class _Recording:
    inputs: dict[str, Tensor]
    outputs: Callable[[], object]


class CaptureError(RuntimeError):
    """A function could not be recorded as a CUDA graph."""


class Recorded:
    """``function(**tensors)``, which must not wait for the device nor draw numbers, as CUDA graphs.

    Without ``record`` the same buffers are filled and the function is called each time: what runs where
    there is no CUDA. What is returned holds until the next call with the same shapes.
    """

    def __init__(self, function: Callable, record: bool):
        self.function, self.record = function, record
        self.replayed = False  # whether the last call replayed a recording
        self._recordings: dict[tuple, _Recording] = {}

    def __call__(self, **tensors: Tensor):
        """Return what the function returns. Raises CaptureError where it cannot be recorded."""
        self.replayed = True
        key = tuple((name, tensor.shape, tensor.dtype) for name, tensor in sorted(tensors.items()))
        recording = self._recordings.get(key)
        if recording is None:
            self.replayed = False
            try:
                recording = self._recordings[key] = self._begin(tensors)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # drivers, libraries and allocators each fail in their own way
                raise CaptureError(str(error)) from error
        for name, tensor in tensors.items():
            recording.inputs[name].copy_(tensor)
        return recording.outputs()

    def _begin(self, tensors: dict[str, Tensor]) -> _Recording:
        inputs = {name: tensor.clone() for name, tensor in tensors.items()}
        if not self.record:
            return _Recording(inputs, lambda: self.function(**inputs))
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                self.function(**inputs)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(**inputs)

        def replay():
            graph.replay()
            return outputs

        return _Recording(inputs, replay)
