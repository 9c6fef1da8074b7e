"""What holds for every solver, by name."""

import time

import pytest
import torch

from world_model_ros.planning.cem import ICEM, Noise
from world_model_ros.planning.config import solver_classes

SOLVERS = solver_classes()

LIMITS = torch.full((10,), -1.0), torch.full((10,), 1.0)


def noise(seeds, samples):
    return Noise([torch.Generator().manual_seed(seed) for seed in seeds], (samples, 5, 10), 5, 0.5)


def bowl(targets):
    return lambda candidates: (candidates - targets[:, None]).square().sum((-1, -2))


def solve(name, targets, seeds, **settings):
    solver = SOLVERS[name](**{"samples": 128, "elites": 12, "iterations": 8, "correlation": 0.5, **settings})
    solution = solver.solve(bowl(targets), torch.zeros_like(targets), noise(seeds, solver.samples), LIMITS)
    return solver, solution


@pytest.fixture(params=SOLVERS)
def name(request):
    return request.param


def test_comes_nearer_to_the_minimum(name):
    targets = torch.randn(1, 5, 10, generator=torch.Generator().manual_seed(1)) * 0.4
    _, solution = solve(name, targets, [0])
    assert bowl(targets)(solution.actions[:, None]).item() < 0.6 * targets.square().sum()


def test_the_plan_is_within_limits(name):
    _, solution = solve(name, torch.full((1, 5, 10), 5.0), [0])
    assert solution.actions.abs().max() <= 1
    assert solution.actions.mean() > 0.2


def test_a_batch_changes_no_plan(name):
    targets = torch.randn(3, 5, 10, generator=torch.Generator().manual_seed(1))
    _, together = solve(name, targets, [7, 8, 9])
    for i in range(3):
        _, alone = solve(name, targets[i : i + 1], [7 + i])
        torch.testing.assert_close(alone.actions[0], together.actions[i], rtol=0, atol=1e-6)


def test_a_good_proposal_is_not_worse_than_none(name):
    targets = torch.rand(1, 5, 10, generator=torch.Generator().manual_seed(3)) - 0.5
    solver = SOLVERS[name](samples=32, elites=4, iterations=1, correlation=0.5)
    cost = bowl(targets)
    plans = [
        solver.solve(cost, torch.zeros(1, 5, 10), noise([0], 32), LIMITS, proposals).actions
        for proposals in (None, targets[:, None])
    ]
    without, with_one = (cost(plan[:, None]).item() for plan in plans)
    assert with_one < 0.5 * without


def test_impossible_candidates_do_not_count(name):
    def cost(candidates):
        costs = (candidates - 0.3).square().sum((-1, -2))
        return torch.where(candidates[:, :, 0, 0] < 0, torch.inf, costs)

    solver = SOLVERS[name](samples=64, elites=8, iterations=3)
    solution = solver.solve(cost, torch.full((1, 5, 10), 0.1), noise([0], 64), LIMITS)
    assert solution.actions.isfinite().all()
    assert solution.cost.isfinite().all()
    assert solution.actions[0, 0, 0] >= 0


def test_a_deadline_ends_it_between_iterations(name, passing):
    def cost(candidates):
        passing(0.01)
        return candidates.square().sum((-1, -2))

    solver = SOLVERS[name](samples=16, elites=2, iterations=50)
    until = time.perf_counter() + 0.06
    solution = solver.solve(cost, torch.zeros(1, 5, 10), noise([0], 16), LIMITS, deadline=until)
    assert 1 <= solution.iterations < 10


def test_icem_draws_fewer_and_its_plan_is_the_best_it_saw():
    seen = []

    def cost(candidates):
        costs = candidates.square().sum((-1, -2)) - candidates.sum((-1, -2))
        seen.append(costs)
        return costs

    solver = ICEM(samples=64, elites=8, iterations=5, decay=2)
    solution = solver.solve(cost, torch.zeros(1, 5, 10), noise([0], 64), LIMITS)
    assert [costs.shape[1] for costs in seen] == [64, 32, 16, 16, 16]
    assert solution.candidates == 144
    assert solution.cost.item() == min(costs.min().item() for costs in seen)
