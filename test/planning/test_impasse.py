"""A goal that comes no nearer, though each plan promises it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from test.planning.test_planner import SPEC, STILL, PointMass, latent
from world_model_ros.errors import NoPlanError
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.planning.impasse import AWAY, Impasse, Surprises, moves_elsewhere
from world_model_ros.planning.planner import LEFT, RecedingHorizonPlanner

LIMITS = torch.full((10,), -2.0), torch.full((10,), 2.0)
STEPS = 8
MOVE = np.full((5, 2), 0.1)
CONFIG = PlannerConfig(impasse_steps=STEPS)


def of_object(latents, goals):
    """Return the distance of the object, which is the third number of a latent."""
    return (latents - goals)[..., 2].abs()


class Pushing(PointMass):
    """Believes that moving along x, or along y, moves the object as far."""

    def __init__(self, along=0):
        super().__init__()
        self.along, self.object, self.ensemble = along, of_object, []

    def rollout(self, latents, history_actions, candidates):
        out = super().rollout(latents, history_actions, candidates)
        out[..., 2] += (out - latents[:, -1][:, None, None])[..., self.along]
        return out


def test_a_distance_that_does_not_fall_for_some_steps_is_an_impasse():
    impasse = Impasse(3, 0.1)
    assert [impasse.step(d, True) for d in (2.0, 1.5, 1.45, 1.6, 1.41)] == [False] * 4 + [True]
    assert [impasse.step(1.5, True) for _ in range(3)] == [False, False, True]  # as long again
    assert [impasse.step(d, True) for d in (1.5, 1.5, 1.3, 1.3, 1.3)] == [False] * 5  # it fell
    impasse.reset()
    assert [impasse.step(9.0, True) for _ in range(4)] == [False] * 3 + [True]


def test_steps_in_which_the_robot_was_kept_still_do_not_count_and_with_0_there_is_no_impasse():
    impasse = Impasse(2, 0.1)
    assert not any(impasse.step(1.0, False) for _ in range(9))
    assert [impasse.step(1.0, True) for _ in range(2)] == [False, True]
    never = Impasse(0, 0.1)
    assert not any(never.step(1.0, True) for _ in range(99))


@pytest.mark.parametrize("models", [[Pushing(0)], [Pushing(0), Pushing(1)]], ids=["one", "two"])
def test_moving_elsewhere_leaves_the_object_where_it_is_as_all_predictors_see_it(models):
    start, past = torch.zeros(1, 1, 64), torch.zeros(1, 0, 10)
    goal = torch.zeros(64)
    goal[2] = 0.5

    def moved(model, blocks):
        return model.rollout(start, past, blocks[None, None])[0, 0]

    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        blocks = moves_elsewhere(models, start, past, goal, of_object, 0.05, LIMITS, 5, generator)
        assert blocks.shape == (AWAY, 10)
        assert (blocks.abs() <= 2.0).all()
        for model in models:
            assert of_object(moved(model, blocks), goal).max() <= 0.55 + 1e-6
        if len(models) == 1:  # what is not the object is free
            assert moved(models[0], blocks)[-1, :2].norm() > 0.1


def test_where_every_move_brings_the_object_away_the_least_one_is_taken():
    class Fleeing(Pushing):
        def rollout(self, latents, history_actions, candidates):
            out = super().rollout(latents, history_actions, candidates)
            out[..., 2] = -1.0 - out[..., :2].norm(dim=-1)
            return out

    start, goal = torch.zeros(1, 1, 64), torch.zeros(64)
    generator = torch.Generator().manual_seed(0)
    chosen = moves_elsewhere(
        [Fleeing()], start, torch.zeros(1, 0, 10), goal, of_object, 0.05, LIMITS, 5, generator
    )
    assert Fleeing().rollout(start, torch.zeros(1, 0, 10), chosen[None, None])[0, 0, :, :2].norm() < 0.2


def test_what_cannot_be_imagined_is_never_taken():
    class Broken(Pushing):
        def __init__(self, high):
            super().__init__()
            self.high = high

        def rollout(self, latents, history_actions, candidates):
            out = super().rollout(latents, history_actions, candidates)
            return torch.where(out[..., :1] > self.high, torch.nan, out)

    start, past, goal = torch.zeros(1, 1, 64), torch.zeros(1, 0, 10), torch.zeros(64)
    goal[2] = 0.5

    def chosen(model):
        generator = torch.Generator().manual_seed(0)
        return moves_elsewhere([model], start, past, goal, of_object, 0.05, LIMITS, 5, generator)

    half = Broken(0.0)
    assert half.rollout(start, past, chosen(half)[None, None]).isfinite().all()
    with pytest.raises(NoPlanError, match="no way elsewhere has a finite cost"):
        chosen(Broken(-9.0))


def follow(planner, steps, obeys=True):
    """Plan where the object never moves; return for each step whether the robot goes elsewhere."""
    position, running, executed, seen = np.zeros(2), STILL, None, []
    goal = latent(0.0, 0.0)
    goal[2] = 0.4
    planner.set_goal(goal)
    for _ in range(steps):
        plan = planner.plan(latent(*position), executed, running)
        assert np.isfinite(plan.actions).all()
        assert math.isfinite(plan.predicted_distance)
        assert len(plan.costs) == plan.horizon == len(plan.actions) // 5
        seen.append(plan.elsewhere)
        executed = running if obeys else STILL
        position = position + 0.05 * executed.sum(0)
        running = plan.actions[:5]
    return seen


def believer(members=1):
    world = Pushing()
    world.ensemble = [Pushing() for _ in range(members)]
    return world


def test_the_planner_goes_elsewhere_where_its_promises_are_not_kept_and_then_plans_on():
    seen = follow(RecedingHorizonPlanner(believer(), SPEC, CONFIG), 40)
    first = seen.index(True)
    assert first == STEPS + 1  # the first step has executed nothing that was planned
    assert seen[first : first + AWAY] == [True] * AWAY
    assert not seen[first + AWAY]
    assert seen.count(True) >= 2 * AWAY  # as nothing helps in this world, again


@pytest.mark.parametrize(
    ("world", "options"),
    [
        (believer(0), {"impasse_steps": STEPS}),
        (believer(), {"impasse_steps": STEPS, "ensemble": 0}),
        (believer(), {}),
    ],
    ids=["no second predictor", "not asked", "switched off"],
)
def test_otherwise_it_never_does(world, options):
    assert not any(follow(RecedingHorizonPlanner(world, SPEC, PlannerConfig(**options)), 30))


def test_nor_where_somebody_keeps_the_robot_still():
    assert not any(follow(RecedingHorizonPlanner(believer(), SPEC, CONFIG), 30, obeys=False))


@pytest.mark.parametrize(("reached", "goes"), [(0.4 / LEFT + 0.01, False), (0.4 / LEFT - 0.01, True)])
def test_nor_near_the_goal(reached, goes):
    thresholds = dataclasses.replace(SPEC.thresholds, object_reached=reached)
    # It never counts as reached, as the planner would rest there.
    spec, config = (
        dataclasses.replace(SPEC, thresholds=thresholds),
        PlannerConfig(reached_steps=0, impasse_steps=STEPS),
    )
    assert any(follow(RecedingHorizonPlanner(believer(), spec, config), 30)) is goes


def test_another_goal_and_a_gap_end_it():
    planner = RecedingHorizonPlanner(believer(), SPEC, CONFIG)
    follow(planner, STEPS + 2)
    goal = latent(0.0, 0.0)
    goal[2] = -0.4
    planner.set_goal(goal)
    assert not planner.plan(latent(0.0, 0.0), STILL, STILL).elsewhere
    follow(planner, STEPS + 2)
    assert planner.plan(latent(0.0, 0.0), STILL, STILL, passed=1).elsewhere
    assert not planner.plan(latent(0.0, 0.0), None, STILL, passed=AWAY).elsewhere


def test_surprises_in_a_row_while_the_robot_does_what_it_was_told():
    def after(error, executed=MOVE):
        surprises.expect(MOVE, torch.zeros(3))
        return surprises.step(torch.tensor([error**0.5, 0.0, 0.0]), executed)

    surprises = Surprises(2, 1.0)
    assert [after(error) for error in (1.1, 0.9, 1.1, 1.1, 1.1, 1.1)] == [False] * 3 + [True, False, True]
    assert [after(9.0, executed) for executed in (None, STILL, 2 * MOVE)] == [False] * 3
    assert not surprises.step(torch.full((3,), 9.0), MOVE)  # nothing was expected
    surprises.expect(None, torch.zeros(3))
    assert not surprises.step(torch.full((3,), 9.0), MOVE)
    assert not after(9.0)
    surprises.reset()
    assert [after(9.0), after(9.0)] == [False, True]
    surprises = Surprises(0, 1.0)
    assert not any(after(9.0) for _ in range(9))
    surprises = Surprises(2, None)
    assert not any(after(9.0) for _ in range(9))


def surprised(bound):
    thresholds = dataclasses.replace(SPEC.thresholds, surprise=bound)
    spec = dataclasses.replace(SPEC, thresholds=thresholds)
    return RecedingHorizonPlanner(believer(), spec, PlannerConfig(reached_steps=0))


def test_where_it_is_surprised_it_goes_elsewhere_at_once_and_then_plans_on():
    seen = follow(surprised(1e-3), 20)
    first = seen.index(True)
    assert first == 3  # of the first plan's blocks the second has run, and both moved nothing
    assert seen[first : first + AWAY + 1] == [True] * AWAY + [False]
    assert not any(follow(surprised(1e3), 20))


def test_a_move_elsewhere_waits_for_a_robot_that_is_kept_still():
    planner = surprised(1e-3)
    assert follow(planner, 4)[-1]
    held = [planner.plan(latent(0.0, 0.0), STILL, STILL) for _ in range(3 * AWAY)]
    assert all(plan.elsewhere for plan in held)
    running, seen = held[-1].actions[:5], []
    for _ in range(AWAY):
        plan = planner.plan(latent(0.0, 0.0), running, running)
        seen.append(plan.elsewhere)
        running = plan.actions[:5]
    assert seen == [True] * (AWAY - 1) + [False]
