import json

import numpy as np
import pytest

from world_model_ros.cli import main
from world_model_ros.evaluation.continuous import (
    GoalOutcome,
    RunOutcome,
    continuous_results,
    run_goals,
    summary,
)
from world_model_ros.evaluation.policies import PlannerPolicy
from world_model_ros.evaluation.problems import Problem
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.planning.planner import Plan
from world_model_ros.sim.tasks import make_world

SMALL = ["--samples", "8", "--elites", "2", "--iterations", "1"]


@pytest.fixture(scope="module")
def world():
    world = make_world("reach")
    yield world
    world.close()


class Oracle:
    """Goes straight to the goal that the world drew last, or stands still."""

    def __init__(self, world, lazy=False):
        self.world, self.lazy = world, lazy
        self.goals, self.resets, self.asked = [], 0, 0
        draw, reset = world.sample_goal, world.reset

        def sample_goal(rng):
            self.goals.append(draw(rng))
            return self.goals[-1]

        def counted(*words, **named):
            self.resets += 1
            reset(*words, **named)

        world.sample_goal, world.reset = sample_goal, counted

    def undo(self):
        del self.world.sample_goal, self.world.reset

    def start(self, goal_image, problem):
        self.asked += 1

    def change_goal(self, goal_image):
        self.asked += 1

    def promises(self, steps):
        return []

    def act(self, image):
        away = self.goals[-1] - self.world.state()
        return np.zeros((5, 2)) if self.lazy else np.tile(away / 0.25, (5, 1))


@pytest.fixture
def oracle(world):
    made = []

    def make(**options):
        made.append(Oracle(world, **options))
        return made[-1]

    yield make
    made[-1].undo()


def test_goals_come_one_after_another_and_the_world_is_reset_once(world, oracle):
    policy = oracle()
    run = run_goals(world, policy, seed=3, goals=4, budget=75)
    assert run.reached == len(run.goals) == policy.asked == 4
    assert policy.resets == 1
    assert all(goal.reason == "" and goal.distance < 0.03 and goal.steps <= 40 for goal in run.goals)
    np.testing.assert_array_equal([goal.goal for goal in run.goals], policy.goals)


def test_a_goal_is_missed_when_its_budget_is_over_and_the_next_one_comes(world, oracle):
    run = run_goals(world, oracle(lazy=True), seed=3, goals=2, budget=30)
    assert [(goal.reached, goal.steps, goal.reason) for goal in run.goals] == [(False, 30, "not arrived")] * 2


def test_the_first_goal_and_the_start_are_those_of_sim(world, oracle):
    policy = oracle()
    run = run_goals(world, policy, seed=11, goals=1, budget=75)
    policy.undo()
    world.reset(seed=11)
    np.testing.assert_array_equal(run.goals[0].goal, world.sample_goal(np.random.default_rng((11, 1))))
    policy.__init__(world)


def test_promises_are_compared_with_what_came(checkpoint):
    class Scripted:
        """Promises to come 2 nearer with each block; the distances that come are given."""

        def __init__(self, distances):
            self.distances = iter(distances)

        def set_goal(self, latent): ...

        def plan(self, latent, executed, running):
            now = next(self.distances)
            return Plan(np.zeros((25, 2)), 0, 0, 5, 1.0, 1, 8, now, now - 2.0 * np.arange(1, 6))

    policy = PlannerPolicy(*load_checkpoint(checkpoint), PlannerConfig(samples=8, elites=2, iterations=1))
    picture = np.zeros((64, 64, 3), np.uint8)
    policy.start(picture, Problem(0, 0, (), ()))
    policy.planner = Scripted([20.0, 20, 18, 16, 14, 12, 12, 12, 12, 12])
    for _ in range(10):
        policy.act(picture)
    promises = policy.promises(4)
    assert [promise.gain for promise in promises] == [8.0] * 5  # 4 model steps after the running one
    assert [promise.reached for promise in promises] == [8.0, 8.0, 6.0, 4.0, 2.0]
    policy.change_goal(picture)
    assert policy.promises(4) == []
    run = RunOutcome(0, (), tuple((p.gain, p.reached) for p in promises))
    goal = run_outcome(True)
    results = continuous_results([RunOutcome(0, goal.goals, run.promises)], {}, [], [])
    assert (results["promises"], results["promises_broken"]) == (5, 1)


def run_outcome(*reached):
    goals = (GoalOutcome((0.5, 0.0), r, 0.01, None, 20, "" if r else "not arrived") for r in reached)
    return RunOutcome(0, tuple(goals))


def test_results_count_goals_and_name_the_worst_run():
    runs = [run_outcome(True, True, False), run_outcome(True, True, True)]
    results = continuous_results(runs, {"random": [run_outcome(False, False, False)] * 2}, [10.0, 20.0], [8])
    assert (results["n"], results["successes"], results["worst_run"]) == (6, 5, 2)
    assert results["success_rate"] == pytest.approx(5 / 6)
    assert results["interval"][0] < 5 / 6 < results["interval"][1]
    assert results["baselines"]["random"]["success_rate"] == 0.0
    text = summary(results | {"task": "reach", "budget": 75, "seed": 0})
    assert "2 runs of 3 goals without a reset" in text
    assert "of 3 in each run  2, 3" in text
    assert "1 not arrived" in text


def test_the_number_of_workers_changes_nothing(checkpoint, tmp_path):
    words = ["evaluate", "--task", "reach", "--checkpoint", checkpoint, "--protocol", "continuous", *SMALL]
    words += ["-n", "4", "--runs", "2", "--budget", "20", "--seed", "5"]
    found = []
    for workers in ("1", "2"):
        file = tmp_path / f"{workers}.json"
        assert main([*words, "--workers", workers, "--json", str(file)]) == 0
        found.append(json.loads(file.read_text()))
    for results in found:
        del results["planning_ms"]
    assert found[0] == found[1]
    assert [run["seed"] for run in found[0]["runs"]] == [5, 6]
    assert {"success_rate", "successes", "n", "runs", "baselines"} <= set(found[0])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-n", "7", "--runs", "2"], "7 goals cannot be shared by 2 runs: give -n a multiple of --runs."),
        (["--runs", "0"], "--runs must be at least 1, it is 0."),
        (["--filmstrip", "f.png"], "--filmstrip is for the other protocols"),
    ],
)
def test_bad_options_are_refused(words, sentence, capsys):
    assert main(["evaluate", "--task", "reach", "--protocol", "continuous", *words]) == 2
    assert sentence in capsys.readouterr().err
