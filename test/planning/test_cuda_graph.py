"""A solve as a CUDA graph runs it, how many candidates it evaluates, and its precision."""

import numpy as np
import pytest
import torch

from world_model_ros.data.normalisation import normalise
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import find_checkpoint
from world_model_ros.planning.cem import Noise
from world_model_ros.planning.config import PlannerConfig, solver_classes
from world_model_ros.planning.cuda_graph import Recorded
from world_model_ros.planning.fast_rollout import for_planning
from world_model_ros.planning.objective import GoalDistance
from world_model_ros.planning.planner import RecedingHorizonPlanner

SOLVERS = solver_classes()


@pytest.fixture(scope="module")
def loaded():
    return load_checkpoint(find_checkpoint("reach"))


def plans(loaded, count=6, recorded=False, **settings):
    """Return plans on a latent that moves, from a planner that may record its solves."""
    model, spec = loaded
    planner = RecedingHorizonPlanner(
        model, spec, PlannerConfig(samples=16, elites=4, iterations=2, **settings)
    )
    planner.runner.records = recorded
    generator = np.random.default_rng(0)
    latents = generator.normal(size=(count, spec.model.latent_dim)).astype(np.float32)
    planner.set_goal(latents[0] * 0.5)
    still = np.zeros(planner.shape)
    return [planner.plan(z, still if k else None, still) for k, z in enumerate(latents)]


def test_a_recorded_solve_gives_the_same_plans(loaded):
    for one, other in zip(plans(loaded), plans(loaded, recorded=True), strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        assert one.candidates == other.candidates


def test_warming_up_leaves_no_trace(loaded):
    model, spec = loaded
    actions = []
    for warm in (False, True):
        planner = RecedingHorizonPlanner(model, spec, PlannerConfig(samples=16, elites=4, iterations=2))
        planner.runner.records = warm
        if warm:
            planner.warm_up()
        planner.set_goal(np.ones(spec.model.latent_dim, np.float32))
        latent, still = np.zeros(spec.model.latent_dim, np.float32), np.zeros(planner.shape)
        actions.append(planner.plan(latent, None, still).actions)
    np.testing.assert_array_equal(*actions)


def test_a_recorded_solve_that_would_be_late_is_replaced_by_a_direct_one(loaded):
    model, spec = loaded
    config = PlannerConfig(samples=16, elites=4, iterations=50, deadline=1.0)
    planner = RecedingHorizonPlanner(model, spec, config)
    planner.runner.records = True
    planner.set_goal(np.ones(spec.model.latent_dim, np.float32))
    latent, still = np.zeros(spec.model.latent_dim, np.float32), np.zeros(planner.shape)
    iterations = [planner.plan(latent, still if k else None, still).iterations for k in range(6)]
    assert min(iterations) == 1  # once it is known how long the whole one takes


@pytest.mark.parametrize(("solver", "candidates"), [("cem", 16 + 16), ("icem", 16 + 13)])
def test_candidates_are_counted(loaded, solver, candidates):
    for plan in plans(loaded, 2, solver=solver, first_solve_multiplier=1):
        assert plan.candidates == candidates
    wide = plans(loaded, 1, solver="cem", first_solve_multiplier=2)[0]
    assert wide.candidates == 64  # where the arrival is chosen


def test_bf16_plans_nearly_the_same_first_step(loaded):
    for one, other in zip(plans(loaded, 3), plans(loaded, 3, precision="bf16"), strict=True):
        assert np.isfinite(other.actions).all()
        assert other.predicted_distance == pytest.approx(one.predicted_distance, rel=0.2, abs=1.0)


def starved(loaded, most):
    """Return a planner of 16 samples on a device where no more than ``most`` have room."""
    model, spec = loaded
    config = PlannerConfig(solver="cem", samples=16, elites=4, iterations=2, first_solve_multiplier=1)
    planner = RecedingHorizonPlanner(model, spec, config)

    class Starved:
        def rollout(self, latents, past, candidates):
            if candidates.shape[1] > most:
                raise torch.OutOfMemoryError("no room")
            return model.rollout(latents, past, candidates)

    planner.model = Starved()
    planner.set_goal(np.ones(spec.model.latent_dim, np.float32))
    latent, still = np.zeros(spec.model.latent_dim, np.float32), np.zeros(planner.shape)
    return lambda: planner.plan(latent, None, still)


@pytest.mark.fault
def test_fault_18_too_little_memory_halves_the_samples_once(loaded, caplog):
    plan = starved(loaded, 9)  # 8 and standing still
    assert plan().candidates == 16  # two iterations of half the samples
    assert plan().candidates == 16
    assert caplog.text.count("half the samples from now on") == 1


@pytest.mark.fault
def test_fault_18_too_little_memory_even_for_half_is_an_error(loaded):
    plan = starved(loaded, 7)
    for _ in range(2):
        with pytest.raises(UserError, match="set samples lower"):
            plan()


def test_a_batch_of_problems_gets_the_plans_of_one_by_one(loaded):
    model, spec = loaded
    fast, shape = for_planning(model), (12, 5, spec.model.action_dim)
    latents, past, goals = torch.randn(3, 2, 64), torch.randn(3, 1, 10), torch.randn(3, 64)
    mean = torch.zeros(3, *shape[1:])

    def solve(problems):
        generators = [torch.Generator().manual_seed(i) for i in range(3)[problems]]
        objective = GoalDistance(fast, latents[problems], past[problems], goals[problems])
        noise = Noise(generators, shape, spec.block, 0.9)
        return SOLVERS[name](samples=12, elites=4, iterations=3).solve(objective, mean[problems], noise)

    for name in SOLVERS:
        together = solve(slice(None)).actions
        for i in range(3):
            assert torch.equal(together[i], solve(slice(i, i + 1)).actions[0]), name


def test_recordings_are_by_shape():
    calls = []

    def double(values):
        calls.append(values.shape)
        return (values * 2,)

    recorded = Recorded(double, record=False)
    for length in (2, 3, 2):
        values = torch.full((length,), float(length))
        assert torch.equal(recorded(values=values)[0], values * 2)
    assert recorded.replayed
    assert len(calls) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_plan_on_the_gpu_is_that_of_single_launches(loaded):
    model, spec = loaded
    moved = model.to("cuda")
    try:
        recorded, launched = plans((moved, spec), recorded=True), plans((moved, spec))
        for one, other in zip(recorded, launched, strict=True):
            np.testing.assert_allclose(one.actions, other.actions, atol=1e-4)
    finally:
        model.to("cpu")


def test_the_latents_of_icems_plan_are_those_of_a_rollout(loaded):
    plan = plans(loaded, 1, solver="icem")[0]
    model, spec = loaded
    planner = RecedingHorizonPlanner(model, spec, PlannerConfig())
    goal = np.random.default_rng(0).normal(size=(6, spec.model.latent_dim)).astype(np.float32)[0] * 0.5
    start = torch.from_numpy(goal * 2)[None, None]
    blocks = torch.from_numpy(normalise(plan.actions, spec.action)).float().reshape(1, 1, plan.horizon, -1)
    with torch.inference_mode():
        running = model.rollout(start, torch.zeros(1, 0, blocks.shape[-1]), planner.still[None, None, None])
        context = torch.cat([start, running[:, 0]], dim=1)
        end = model.rollout(context, planner.still[None, None], blocks)[0, 0, -1]
    assert plan.predicted_distance == pytest.approx(
        float((end - torch.from_numpy(goal)).square().sum()), rel=1e-3
    )


@pytest.mark.fault
def test_fault_59_a_solve_that_cannot_be_recorded_is_done_without_and_logged_once(
    loaded, caplog, monkeypatch
):
    def refuse(self, tensors):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    expected = plans(loaded)
    monkeypatch.setattr(Recorded, "_begin", refuse)
    model, spec = loaded
    planner = RecedingHorizonPlanner(model, spec, PlannerConfig(samples=16, elites=4, iterations=2))
    planner.runner.records = True
    planner.warm_up()  # what a node does before it is ready
    for one, other in zip(expected, plans(loaded, recorded=True), strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
    assert caplog.text.count("cannot be recorded as a CUDA graph") == 2  # once for each planner
    assert "stream is capturing" in caplog.text


@pytest.mark.fault
def test_fault_59_too_little_memory_for_a_recording_still_halves_the_samples(loaded, monkeypatch):
    def refuse(self, tensors):
        if tensors["draws"].shape[2] > 8:
            raise torch.OutOfMemoryError("no room")
        return real(self, tensors)

    real = Recorded._begin
    monkeypatch.setattr(Recorded, "_begin", refuse)
    plan = plans(loaded, 2, recorded=True, solver="cem", first_solve_multiplier=1)[-1]
    assert plan.candidates == 16


class Replays:
    """A planner whose replays take as long as told, by a clock that stands otherwise."""

    def __init__(self, loaded, passing, monkeypatch, deadline):
        model, spec = loaded
        config = PlannerConfig(samples=16, elites=4, iterations=2, deadline=deadline)
        self.planner = RecedingHorizonPlanner(model, spec, config)
        self.planner.runner.records = True
        self.latent, self.still = np.zeros(spec.model.latent_dim, np.float32), np.zeros(self.planner.shape)
        self.seconds, self.count = 0.02, 0
        real = Recorded.__call__

        def call(recorded, **tensors):
            self.count += 1
            passing(self.seconds)
            return real(recorded, **tensors)

        monkeypatch.setattr(Recorded, "__call__", call)

    def plan(self, times=1):
        """Return how many of ``times`` plans were replayed."""
        before = self.count
        for _ in range(times):
            self.planner.set_goal(self.latent + 1)
            self.planner.plan(self.latent, None, self.still)
        return self.count - before


@pytest.mark.fault
def test_fault_59_one_slow_replay_ends_replays_for_a_while_only(loaded, passing, monkeypatch):
    replays = Replays(loaded, passing, monkeypatch, deadline=100.0)
    assert replays.plan(10) == 10
    replays.seconds = 0.5
    assert replays.plan(1) == 1
    replays.seconds = 0.02
    assert replays.plan(10) == 0
    assert replays.plan(90) >= 50
    assert replays.plan(10) == 10


@pytest.mark.fault
def test_fault_59_replays_that_are_always_late_are_tried_ever_more_seldom(loaded, passing, monkeypatch):
    replays = Replays(loaded, passing, monkeypatch, deadline=100.0)
    replays.seconds = 0.11
    replays.plan(2)
    assert replays.plan(300) < 12
