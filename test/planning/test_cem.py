import pytest
import torch

from world_model_ros.planning.cem import CEM, Noise


def noise(seeds, samples=64, horizon=5, width=10, block=5, correlation=0.9):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return Noise(generators, (samples, horizon, width), block, correlation)


def bowl(targets):
    """Costs with their minimum at one target (H, A) a problem."""
    return lambda candidates: (candidates - targets[:, None]).square().sum((-1, -2))


def test_finds_the_minimum():
    target = torch.linspace(-0.8, 0.8, 50).reshape(1, 5, 10)
    solver = CEM(samples=256, elites=16, iterations=40, correlation=0.0)
    solution = solver.solve(bowl(target), torch.zeros(1, 5, 10), noise([0], 256, correlation=0.0))
    assert (solution.actions - target).abs().max() < 0.1
    assert solution.cost.item() < 0.1


def test_candidates_and_plan_stay_within_limits():
    low, high = torch.full((10,), -0.5), torch.full((10,), 0.25)
    seen = []

    def cost(candidates):
        seen.append(candidates)
        return bowl(torch.full((1, 5, 10), 9.0))(candidates)

    solution = CEM().solve(cost, torch.zeros(1, 5, 10), noise([0]), (low, high))
    assert len(seen) == CEM().iterations
    for values in (*seen, solution.actions):
        assert (values >= low).all()
        assert (values <= high).all()
    assert solution.actions.mean() > 0.2  # pressed against the upper limit


def test_batching_does_not_change_a_plan():
    targets = torch.randn(3, 5, 10, generator=torch.Generator().manual_seed(1))
    together = CEM().solve(bowl(targets), torch.zeros(3, 5, 10), noise([7, 8, 9]))
    for i in range(3):
        alone = CEM().solve(bowl(targets[i : i + 1]), torch.zeros(1, 5, 10), noise([7 + i]))
        assert torch.equal(alone.actions[0], together.actions[i])


def test_a_candidate_that_costs_infinity_is_never_an_elite():
    def cost(candidates):
        costs = candidates[:, :, 0, 0].clone()
        costs[costs < 0] = torch.inf
        return costs

    solution = CEM().solve(cost, torch.zeros(1, 5, 10), noise([0]))
    assert solution.cost.isfinite().all()
    assert solution.actions[0, 0, 0] > 0


def test_first_candidate_is_the_mean():
    mean = torch.full((1, 2, 4), 0.3)

    def cost(candidates):
        assert torch.equal(candidates[0, 0], mean[0])
        return candidates.sum((-1, -2))

    CEM(samples=4, elites=2, iterations=1).solve(cost, mean, noise([0], 4, 2, 4, block=2))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_noise_has_unit_variance_and_the_stated_correlation(correlation):
    draws = noise([3], samples=20000, correlation=correlation)()[0]
    steps = draws.reshape(20000, 25, 2)
    assert (steps.std(0) - 1).abs().max() < 0.03
    assert steps.mean(0).abs().max() < 0.04
    neighbours = (steps[:, 1:] * steps[:, :-1]).mean(0)
    assert (neighbours - correlation).abs().max() < 0.04
    assert (steps[..., 0] * steps[..., 1]).mean().abs() < 0.02  # dimensions stay independent


@pytest.mark.parametrize(
    "settings",
    [
        {"elites": 1},
        {"elites": 65},
        {"iterations": 0},
        {"correlation": 1.0},
        {"correlation": -0.1},
        {"initial_std": 0},
    ],
)
def test_senseless_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        CEM(**settings)
