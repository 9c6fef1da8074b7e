"""What is measured: one function a part, each returns plain data; and how what is compared takes turns."""

import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch

from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.encoder import prepare_images
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.monitoring.statistics import percentiles
from world_model_ros.planning.cem import CEM, Noise, Solution
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.planning.cuda_graph import Recorded
from world_model_ros.planning.fast_rollout import for_planning
from world_model_ros.planning.objective import GoalDistance
from world_model_ros.planning.planner import RecedingHorizonPlanner

CANDIDATES, HORIZON, ITERATIONS = 300, 5, 30  # of the published solver


def alternate(functions: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict:
    """Time each function ``repeats`` times, in turns, after one untimed turn; return {name: ms (repeats,)}.

    In turns, so that a slow minute of the machine slows all of them. On CUDA a call ends when the
    device has done its work.
    """
    taken = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in taken.items()}


class Bench:
    """A model under test: weights, device, and inputs that are the same every time."""

    def __init__(self, model: LeWorldModel, spec: CheckpointSpec, device: str, repeats: int):
        self.model, self.spec, self.device, self.repeats = model.to(device).eval(), spec, device, repeats
        config, generator = spec.model, torch.Generator().manual_seed(0)

        def draw(*shape):
            return torch.randn(shape, generator=generator).to(device)

        self.latents = draw(1, config.history, config.latent_dim)
        self.past = draw(1, config.history - 1, config.action_dim)
        self.candidates = draw(1, CANDIDATES, HORIZON, config.action_dim)
        self.goal = draw(1, config.latent_dim)
        size = spec.image.size
        self.frame = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)

    @torch.inference_mode()
    def encode(self) -> dict:
        """One camera picture of the model's size to a latent, preparation included."""

        def run():
            return self.model.encode(prepare_images(self.frame, self.spec.image).to(self.device))

        return percentiles(alternate({"encode": run}, 5 * self.repeats, self.device)["encode"])

    @torch.inference_mode()
    def predict(self) -> dict:
        """One model step of 300 candidates with a full window, without any saving."""
        latents, actions = (
            values.expand(CANDIDATES, -1, -1).contiguous()
            for values in (self.latents, torch.cat([self.past, self.candidates[:, 0, :1]], dim=1))
        )
        taken = alternate(
            {"predict": lambda: self.model.predict(latents, actions)}, self.repeats, self.device
        )
        return percentiles(taken["predict"])

    @torch.inference_mode()
    def rollout(self) -> dict:
        """300 candidates, 5 model steps: the planner's, the plain one and the planner's in half precision."""
        low = "fp16" if self.device == "cuda" else "bf16"
        fast, half = (for_planning(self.model, precision) for precision in ("fp32", low))
        inputs = (self.latents, self.past, self.candidates)
        functions = {
            "rollout": lambda: fast.rollout(*inputs),
            "plain": lambda: self.model.rollout(*inputs),
            low: lambda: half.rollout(*inputs),
        }
        taken = alternate(functions, self.repeats, self.device)
        costs = {name: self._costs(function()) for name, function in functions.items()}
        medians = {name: float(np.median(values)) for name, values in taken.items()}
        difference = (costs["rollout"] - costs["plain"]).abs() / costs["plain"].abs()
        return {
            **percentiles(taken["rollout"]),
            "plain_p50_ms": medians["plain"],
            "speedup": medians["plain"] / medians["rollout"],
            "max_relative_cost_difference": float(difference.max()),
            "low": low,
            f"{low}_p50_ms": medians[low],
            f"{low}_speedup": medians["rollout"] / medians[low],
            f"{low}_rank_correlation": _rank_correlation(costs["rollout"], costs[low]),
        }

    def _costs(self, imagined: torch.Tensor) -> torch.Tensor:
        return (imagined[0, :, -1].float() - self.goal).square().sum(-1)

    def solve(self) -> dict:
        """A plan with the default settings, again and again on moving latents: what a robot waits for."""
        planner = RecedingHorizonPlanner(self.model, self.spec, PlannerConfig())
        planner.set_goal(self.goal[0].cpu().numpy())
        planner.warm_up()
        generator = np.random.default_rng(0)
        still = np.zeros(planner.shape)
        milliseconds, candidates, executed = [], [], None
        for _ in range(8 * self.repeats):
            latent = generator.normal(size=self.spec.model.latent_dim).astype(np.float32)
            plan = planner.plan(latent, executed, still)
            milliseconds.append(plan.milliseconds)
            candidates.append(plan.candidates)
            executed = still
        return {
            **percentiles(np.array(milliseconds)),
            "first_ms": milliseconds[0],
            "candidates": float(np.mean(candidates)),
            "planner": asdict(planner.config),
        }

    @torch.inference_mode()
    def published(self) -> dict:
        """The paper's solve, 300 candidates, 30 iterations, 5 model steps, from one latent.

        On CUDA as the planner runs a solve there: recorded as a graph, in float16.
        """
        gpu, solver = self.device == "cuda", CEM.published()
        model = for_planning(self.model, "fp16" if gpu else "fp32")
        context = self.latents[:, -1:], self.past[:, :0]
        mean = torch.zeros(1, HORIZON, self.spec.model.action_dim, device=self.device)

        def solve(draws: torch.Tensor) -> Solution:
            objective = GoalDistance(model, *context, self.goal)
            return solver.solve(objective, mean, iter(draws.unbind()).__next__)

        recorded = Recorded(solve, record=gpu)

        def run() -> Solution:
            generator = torch.Generator(self.device).manual_seed(0)
            noise = Noise([generator], (CANDIDATES, *mean.shape[1:]), self.spec.block)
            return recorded(draws=torch.stack([noise() for _ in range(solver.iterations)]))

        repeats = self.repeats if gpu else max(1, self.repeats // 10)
        return percentiles(alternate({"published": run}, repeats, self.device)["published"])


def _rank_correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    ranks = torch.stack([values.argsort().argsort().float() for values in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])
