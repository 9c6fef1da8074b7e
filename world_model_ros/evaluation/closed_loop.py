"""Closed-loop problems: start here, get to what this picture shows, within a budget of control steps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from world_model_ros.evaluation.policies import Policy


@dataclass(frozen=True)
class Problem:
    """A start and a goal, as simulator states, and the seed of what happens in between."""

    index: int
    seed: int
    start: tuple[float, ...]
    goal: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a problem."""

    index: int
    success: bool  # the criterion was met at some control step within the budget
    success_at_end: bool  # and when the budget was used up
    first_success: int | None  # control steps until then
    start_distance: float  # metres
    final_distance: float  # metres


def make_problems(world, n: int, seed: int) -> list[Problem]:
    """Draw ``n`` unsolved problems of a world; the same for the same seed, whatever came before."""
    children = np.random.SeedSequence(seed).generate_state(n, np.uint32)
    problems = []
    for index, child in enumerate(children):
        start, goal = world.random_problem(int(child))
        problems.append(Problem(index, int(child), tuple(map(float, start)), tuple(map(float, goal))))
    return problems


def run_problem(
    world,
    policy: Policy,
    problem: Problem,
    budget: int,
    watch: Callable[[np.ndarray], None] = lambda _: None,
) -> Outcome:
    """Let ``policy`` act for ``budget`` control steps; the world judges every one of them.

    ``watch`` sees each picture (H, W, 3) uint8 that the policy acts on.
    """
    goal = np.asarray(problem.goal)
    world.reset(seed=problem.seed, state=np.asarray(problem.start))
    policy.start(world.goal_image(goal), problem.seed)
    start_distance, first, success, steps = float(world.distance(goal)), None, False, 0
    while steps < budget:
        picture = world.render()
        watch(picture)
        for action in policy.act(picture)[: budget - steps]:
            world.step(action)
            steps += 1
            success = bool(world.success(goal))
            if success and first is None:
                first = steps
    return Outcome(
        index=problem.index,
        success=first is not None,
        success_at_end=success,
        first_success=first,
        start_distance=start_distance,
        final_distance=float(world.distance(goal)),
    )
