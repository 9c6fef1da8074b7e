"""The public reference beside this package: same weights, same inputs, alternately in one process.

stable-worldmodel is no dependency of this package; where it is installed, this measures against it.
"""

import contextlib
import importlib
import io
from types import SimpleNamespace

import torch
from torch import nn

from world_model_ros.benchmark.parts import alternate
from world_model_ros.errors import UserError
from world_model_ros.model.config import ModelConfig
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.monitoring.statistics import percentiles
from world_model_ros.planning.cem import CEM
from world_model_ros.planning.fast_rollout import for_planning
from world_model_ros.planning.objective import GoalDistance

PEERS = ("stable-worldmodel",)
ELITES = 30
SEED = 0


def require() -> tuple:
    """Return the reference's modules; UserError where it is not installed or cannot be imported."""
    try:
        return tuple(
            importlib.import_module(f"stable_worldmodel.{name}")
            for name in ("wm.lewm", "wm.lewm.module", "solver")
        )
    except Exception as error:  # it imports all of its environments, which may raise anything
        raise UserError(
            f"--peer stable-worldmodel cannot be imported ({type(error).__name__}: {error}): "
            "pip install stable-worldmodel, or leave --peer out."
        ) from None


def reference_model(ours: LeWorldModel) -> nn.Module:
    """Return the reference's model with the weights of ``ours``; it has no encoder, as both get latents."""
    lewm, parts, _ = require()
    c: ModelConfig = ours.config
    mixed = c.action_mixed or c.action_dim
    width, hidden = c.latent_dim, c.projector_hidden
    embedder = parts.Embedder(c.action_dim, mixed, width, mlp_scale=c.action_hidden // width)
    predictor = parts.Predictor(
        num_frames=c.history,
        depth=c.predictor_depth,
        heads=c.predictor_heads,
        mlp_dim=c.predictor_mlp,
        input_dim=width,
        hidden_dim=c.predictor_width,
        output_dim=width,
        dim_head=c.predictor_head_dim,
    )
    pred_proj = parts.MLP(width, hidden, width, norm_fn=nn.BatchNorm1d)
    model = lewm.LeWM(nn.Identity(), predictor, embedder, None, pred_proj)
    shared = ("predictor.", "action_encoder.", "pred_proj.")
    model.load_state_dict({k: v for k, v in ours.state_dict().items() if k.startswith(shared)})
    return model.eval()


def compare(bench, candidates: int, horizon: int, iterations: int, repeats: int) -> dict:
    """Run the published solve (paper, 4.1) with the reference and with this package, in fp32 and in bf16.

    Returns percentiles of each, ``ratio`` and ``bf16_ratio`` (reference over ours), the share of elites
    of the first iteration that agree, and how far the costs of the same candidates differ.
    """
    _, _, solvers = require()
    model, device = reference_model(bench.model).to(bench.device), bench.device
    context, goal = bench.latents[:, -1:], bench.goal
    past = bench.past[:, :0]
    shape = (1, horizon, bench.spec.model.action_dim)
    fast, half = for_planning(bench.model), for_planning(bench.model, "bf16")

    def info() -> dict:
        # What the reference would encode in the first iteration and keep; pixels only say how many frames.
        return {
            "pixels": torch.zeros(1, 1, 3, 1, 1, device=device),
            "goal": torch.zeros(1, 1, 3, 1, 1, device=device),
            "emb": context,
            "goal_emb": goal[:, None],
        }

    def reference() -> torch.Tensor:
        solver = solvers.CEMSolver(
            model, num_samples=candidates, n_steps=iterations, topk=ELITES, device=device, seed=SEED
        )
        space = importlib.import_module("gymnasium").spaces.Box(-1.0, 1.0, (1, shape[-1]))
        settings = SimpleNamespace(horizon=horizon, action_block=1)
        solver.configure(action_space=space, n_envs=1, config=settings)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its time
            return solver.solve(info())["actions"]

    def ours(model) -> torch.Tensor:
        generator = torch.Generator(device).manual_seed(SEED)

        def noise() -> torch.Tensor:
            return torch.randn(1, candidates, *shape[1:], generator=generator, device=device)

        objective = GoalDistance(model, context, past, goal)
        solver = CEM.published(candidates, ELITES, iterations)
        return solver.solve(objective, torch.zeros(shape, device=device), noise).actions

    functions = {"reference": reference, "ours": lambda: ours(fast), "bf16": lambda: ours(half)}
    with torch.inference_mode():
        taken = alternate(functions, repeats, device)
        drawn = bench.candidates[:, :candidates]
        expanded = {k: v[:, None].expand(1, candidates, *v.shape[1:]) for k, v in info().items()}
        theirs = model.get_cost(expanded, drawn)[0]
        mine = GoalDistance(fast, context, past, goal)(drawn)[0]
        plans = {name: functions[name]() for name in ("reference", "ours")}
    elites = [set(costs.topk(ELITES, largest=False).indices.tolist()) for costs in (theirs, mine)]
    medians = {name: percentiles(values)["p50_ms"] for name, values in taken.items()}
    return {
        **percentiles(taken["ours"]),
        "reference_p50_ms": medians["reference"],
        "bf16_p50_ms": medians["bf16"],
        "ratio": medians["reference"] / medians["ours"],
        "bf16_ratio": medians["reference"] / medians["bf16"],
        "max_relative_cost_difference": float(((theirs - mine).abs() / theirs.abs()).max()),
        "same_elites": len(elites[0] & elites[1]) / ELITES,
        "max_plan_difference": float((plans["reference"].cpu() - plans["ours"].cpu()).abs().max()),
    }
