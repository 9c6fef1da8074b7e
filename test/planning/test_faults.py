"""Rows of the fault table that the planner answers for."""

import numpy as np
import pytest
import torch

from world_model_ros.errors import NoPlanError
from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.planning.config import PlannerConfig, solver_classes
from world_model_ros.planning.objective import GoalDistance
from world_model_ros.planning.planner import RecedingHorizonPlanner

SOLVERS = solver_classes()

ACTION = ActionSpec(("x", "y"), "twist", "m/s", (0.0, 0.0), (0.2, 0.2), (-0.4, -0.4), (0.4, 0.4))
SPEC = CheckpointSpec(ModelConfig.small(10), ImageSpec(64), ACTION, 0.05, 5)
STILL = np.zeros((5, 2))
pytestmark = pytest.mark.fault


class Broken:
    """A world whose imagination fails where the first action of a candidate is positive."""

    def __init__(self, value, everywhere=False):
        self.value, self.everywhere = value, everywhere

    def rollout(self, latents, history_actions, candidates):
        moved = candidates[..., :2].cumsum(2)
        out = latents[:, -1][:, None, None].repeat(1, *candidates.shape[1:3], 1)
        out[..., :2] += moved
        bad = torch.full_like(moved[..., 0] > 0, True) if self.everywhere else candidates[..., 0, 0] > 0
        out[bad] = self.value
        return out


def latent(x, y):
    values = np.zeros(SPEC.model.latent_dim, np.float32)
    values[:2] = x, y
    return values


def planner_of(model, **settings):
    settings = {"samples": 32, "elites": 4, "iterations": 3} | settings
    planner = RecedingHorizonPlanner(model, SPEC, PlannerConfig(**settings))
    planner.set_goal(latent(1.0, 1.0))
    return planner


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_fault_13_candidates_that_leave_the_finite_cost_infinity(value):
    candidates = torch.zeros(1, 4, 3, 10)
    candidates[0, 1:3, 0, 0] = 1.0
    objective = GoalDistance(Broken(value), torch.zeros(1, 1, 64), torch.zeros(1, 0, 10), torch.ones(1, 64))
    costs = objective(candidates)[0]
    assert costs[[0, 3]].isfinite().all()
    assert costs[[1, 2]].tolist() == [torch.inf, torch.inf]


@pytest.mark.parametrize("solver", sorted(set(SOLVERS) - {"gradient"}))
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_fault_13_a_plan_is_made_of_the_candidates_that_stay_finite(solver, value):
    planner = planner_of(Broken(value), solver=solver)
    for k in range(4):
        try:
            plan = planner.plan(latent(0.1 * k, 0.0), STILL if k else None, STILL)
        except NoPlanError:
            continue  # refused is safe, too
        assert np.isfinite(plan.actions).all()
        assert np.isfinite([plan.distance, plan.predicted_distance]).all()
        assert (np.abs(plan.actions) <= 0.4).all()


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_fault_13_where_all_candidates_are_bad_there_is_no_plan_and_the_next_one_may_be_good(solver, value):
    model = Broken(value, everywhere=True)
    planner = planner_of(model, solver=solver)
    with pytest.raises(NoPlanError, match="finite"):
        planner.plan(latent(0, 0), None, None)
    model.value, model.everywhere = 0.0, False
    assert np.isfinite(planner.plan(latent(0, 0), STILL, None).actions).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["latent", "executed", "running", "goal"])
def test_fault_13_input_that_is_not_finite_is_refused_and_changes_nothing(what, broken):
    planner, other = (planner_of(Broken(0.0)) for _ in range(2))
    arguments = {"latent": latent(0, 0), "executed": STILL.copy(), "running": STILL.copy()}
    arguments.get(what, np.zeros(2)).flat[1] = broken
    with pytest.raises(ValueError, match="not finite"):
        planner.set_goal(latent(broken, 0)) if what == "goal" else planner.plan(**arguments)
    plans = [p.plan(latent(0, 0), None, STILL).actions for p in (planner, other)]
    np.testing.assert_array_equal(*plans)


def test_fault_13_a_latent_beyond_all_measure_yields_no_plan():
    planner = planner_of(Broken(torch.nan))
    with pytest.raises(NoPlanError):
        planner.plan(latent(3e38, -3e38), None, None)


@pytest.mark.timeout(900)
def test_fault_38_ten_thousand_planning_cycles_leave_memory_as_it_was(resident):
    torch.manual_seed(0)
    config = ModelConfig(
        encoder="conv",
        image_size=16,
        action_dim=10,
        latent_dim=16,
        history=3,
        encoder_width=16,
        projector_hidden=16,
        action_hidden=16,
        predictor_width=16,
        predictor_depth=1,
        predictor_heads=2,
        predictor_head_dim=8,
        predictor_mlp=16,
        dropout=0.0,
        channels=(8,),
    )
    model = LeWorldModel(config).eval()
    spec = CheckpointSpec(config, ImageSpec(16), ACTION, 0.05, 5)
    settings = PlannerConfig(
        solver="cem", samples=4, elites=2, iterations=1, horizon=1, first_solve_multiplier=1
    )
    planner = RecedingHorizonPlanner(model, spec, settings)
    latents = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)

    def cycles(count):
        for k in range(count):
            if k % 50 == 0:
                planner.set_goal(latents[(k // 50) % 50])
            executed, running = None if k % 97 == 0 else STILL, STILL if k % 5 == 0 else None
            planner.plan(latents[k % 50], executed, running)

    torch.set_num_threads(1)  # models this small only lose by more
    cycles(500)
    before = resident()
    cycles(10_000)
    grown = resident() - before
    print(f"10,000 planning cycles: {grown:.1f} MB more")
    assert grown < 20
