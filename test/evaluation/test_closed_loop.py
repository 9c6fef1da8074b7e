import json

import numpy as np
import pytest

from world_model_ros.cli import main
from world_model_ros.evaluation.closed_loop import (
    Outcome,
    closed_loop_results,
    rates,
    run_problem,
    summary,
    wilson_interval,
)
from world_model_ros.evaluation.problems import Problem, make_problems
from world_model_ros.sim.tasks import make_world


@pytest.fixture(scope="module")
def world():
    world = make_world("reach")
    yield world
    world.close()


class Scripted:
    """Moves straight to a point, full speed, told by the simulator where the tip is."""

    planning_ms: list[float]

    def __init__(self, world, targets):
        self.world, self.targets, self.calls = world, targets, 0

    def start(self, goal_image, seed):
        self.goal_image = goal_image

    def act(self, image):
        target = self.targets[min(self.calls, len(self.targets) - 1)]
        self.calls += 1
        return np.tile((np.asarray(target) - self.world.state()[:2]) / 0.25, (5, 1))


START, GOAL = (0.50, -0.10), (0.50, 0.10)
PROBLEM = Problem(0, 1, START, GOAL)


def test_reaching_and_staying_counts_twice(world):
    outcome = run_problem(world, Scripted(world, [GOAL]), PROBLEM, 50)
    assert outcome.success
    assert outcome.success_at_end
    assert outcome.start_distance == pytest.approx(0.2, abs=1e-3)
    assert outcome.final_distance < 0.01
    # 0.17 m at no more than 0.4 m/s take 9 control steps
    assert 9 <= outcome.first_success <= 15


def test_passing_through_counts_once(world):
    outcome = run_problem(world, Scripted(world, [GOAL, GOAL, GOAL, START]), PROBLEM, 50)
    assert outcome.success
    assert not outcome.success_at_end
    assert outcome.criteria == {"position": {"any": True, "end": False, "first": outcome.first_success}}


def test_each_criterion_is_met_in_its_own_time():
    world = make_world("push")
    start, goal = (0.42, 0.0, 0.55, 0.0, 0.2), (0.42, 0.10, 0.55, 0.0, 0.2)
    outcome = run_problem(world, Scripted(world, [(0.42, 0.10)]), Problem(0, 1, start, goal), 20)
    world.close()
    # the block is there all along; the tip comes when it has gone 6 of its 10 cm
    assert outcome.criteria["pose"] == {"any": True, "end": True, "first": 1}
    assert outcome.criteria["pose_with_effector"]["first"] > 1
    assert outcome.criteria["pose_with_effector"]["end"]
    assert (outcome.success, outcome.first_success) == (True, 1)


def test_a_turned_block_is_a_difference_of_angles():
    world = make_world("push")
    start, goal = (0.42, 0.0, 0.55, 0.0, 3.0), (0.42, 0.0, 0.55, 0.0, -3.0)
    outcome = run_problem(world, Scripted(world, [start[:2]]), Problem(0, 1, start, goal), 10)
    turned = run_problem(world, Scripted(world, [start[:2]]), Problem(0, 1, start, (*goal[:4], 1.5)), 10)
    world.close()
    assert outcome.start_angle == pytest.approx(2 * np.pi - 6, abs=1e-3)
    assert outcome.final_angle == pytest.approx(2 * np.pi - 6, abs=1e-3)
    assert turned.start_angle == pytest.approx(1.5, abs=1e-3)
    assert turned.criteria["position"]["end"]
    assert turned.criteria["pose"] == {"any": False, "end": False, "first": None}
    assert not turned.success


def test_standing_still_fails(world):
    outcome = run_problem(world, Scripted(world, [START]), PROBLEM, 20)
    assert not outcome.success
    assert outcome.first_success is None
    assert outcome.final_distance == pytest.approx(0.2, abs=5e-3)


@pytest.mark.parametrize("budget", [1, 7])
def test_budget_is_counted_in_control_steps(world, budget, monkeypatch):
    steps, step = [], world.step
    monkeypatch.setattr(world, "step", lambda action: (steps.append(action), step(action)))
    run_problem(world, Scripted(world, [GOAL]), PROBLEM, budget)
    assert len(steps) == budget


def test_policy_sees_a_picture_a_block(world):
    pictures = []
    run_problem(world, Scripted(world, [GOAL]), PROBLEM, 20, pictures.append)
    assert len(pictures) == 4
    assert not np.array_equal(pictures[0], pictures[1])


def test_problems_are_reproducible_and_unsolved(world):
    problems = make_problems(world, 20, seed=3)
    assert problems == make_problems(world, 20, seed=3)
    assert problems[:5] == make_problems(world, 5, seed=3)
    assert problems != make_problems(world, 20, seed=4)
    for problem in problems:
        assert np.linalg.norm(np.subtract(problem.start[:2], problem.goal[:2])) > 0.08


def test_shipped_model_reaches_goals_and_workers_change_nothing(tmp_path):
    results = []
    for words in ("-n 10 --workers 2", "-n 2 --workers 1 --no-baselines"):
        file = tmp_path / "results.json"
        assert main(f"evaluate --task reach --seed 11 {words} --json {file}".split()) == 0
        results.append(json.loads(file.read_text()))
    one, alone = results
    assert one["outcomes"][:2] == alone["outcomes"]
    assert one["problems"][:2] == alone["problems"]
    assert one["success_rate"] >= 0.9
    assert one["success_at_end"] >= 0.9
    assert one["success_rate"] > one["baselines"]["random"]["success_rate"] + 0.4
    assert one["interval"][0] < one["success_rate"] <= one["interval"][1]
    assert one["successes"] == sum(o["success"] for o in one["outcomes"])
    keys = "task protocol n successes success_rate success_at_end interval baselines planning_ms commit seed"
    assert set(keys.split()) <= set(one)
    assert 0 < one["planning_ms"]["p50"] <= one["planning_ms"]["p95"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("evaluate --task reach --checkpoint /nowhere", "no checkpoint at '/nowhere'"),
        ("evaluate --task reach -n 0", "-n must be at least 1"),
        ("evaluate --task reach --json /nowhere/x.json", "there is no folder /nowhere"),
        ("evaluate --task reach --budget 0", "--budget must be at least 1"),
        ("evaluate --task reach --elites 100", "elites"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_unknown_task_is_exit_code_2(capsys):
    assert main(["evaluate", "--task", "juggle"]) == 2
    assert "reach" in capsys.readouterr().err


def outcome(index, position, pose, effector=(False, False)):
    """An Outcome of three criteria, each (any, end); pose decides."""
    return Outcome(
        index=index,
        success=pose[0],
        success_at_end=pose[1],
        first_success=4 if pose[0] else None,
        start_distance=0.2,
        final_distance=0.01 * index,
        criteria={
            name: {"any": met[0], "end": met[1], "first": 4 if met[0] else None}
            for name, met in (("position", position), ("pose", pose), ("pose_with_effector", effector))
        },
    )


YES, PASSED, NO = (True, True), (True, False), (False, False)
OUTCOMES = [outcome(0, YES, YES, YES), outcome(1, YES, PASSED), outcome(2, PASSED, NO), outcome(3, NO, NO)]


def test_each_criterion_has_its_rates_and_intervals():
    summed = rates(OUTCOMES)
    assert summed["criteria"] == {
        "position": {
            "any": 0.75,
            "any_interval": wilson_interval(3, 4),
            "end": 0.5,
            "end_interval": wilson_interval(2, 4),
        },
        "pose": {
            "any": 0.5,
            "any_interval": wilson_interval(2, 4),
            "end": 0.25,
            "end_interval": wilson_interval(1, 4),
        },
        "pose_with_effector": {
            "any": 0.25,
            "any_interval": wilson_interval(1, 4),
            "end": 0.25,
            "end_interval": wilson_interval(1, 4),
        },
    }
    assert (summed["successes"], summed["success_rate"], summed["success_at_end"]) == (2, 0.5, 0.25)
    assert summed["interval"] == wilson_interval(2, 4)
    assert summed["interval_at_end"] == wilson_interval(1, 4)


def test_baselines_are_judged_by_the_same_criteria():
    results = closed_loop_results(
        OUTCOMES, {"random": OUTCOMES[2:], "repeat": OUTCOMES[:1]}, [1.0, 3.0], [64, 32]
    )
    assert results["baselines"]["random"] == rates(OUTCOMES[2:])
    assert results["baselines"]["repeat"]["criteria"]["pose"]["end"] == 1.0
    assert results["planning_ms"]["p50"] == 2.0
    assert results["candidates_per_plan"] == 48
    assert results["steps"] == {"p50": 4, "p95": 4}
    distances = [0.01 * index for index in range(4)]
    assert results["final_distance"] == {f"p{q}": np.percentile(distances, q) for q in (50, 95)}


def test_the_table_has_a_line_a_criterion_and_moment_with_the_baselines_beside_it():
    results = closed_loop_results(OUTCOMES, {"random": OUTCOMES[2:], "repeat": OUTCOMES[3:]}, [1.0], [64])
    results |= {"task": "push", "protocol": "lewm", "budget": 50, "seed": 0}
    lines = summary(results).splitlines()
    row = next(line for line in lines if line.strip().startswith("position, at some moment"))
    low, high = (f"{100 * bound:.1f}" for bound in wilson_interval(3, 4))
    assert row.split()[-8:] == ["75.0", "%", f"[{low},", f"{high}]", "50.0", "%", "0.0", "%"]
    assert len([line for line in lines if ", at the end" in line]) == 3
    widest = next(line for line in lines if "pose and effector, at some moment" in line)
    assert widest.index("25.0 %") == row.index("75.0 %") == lines[1].index("planner")


def test_no_success_and_no_baseline_still_make_a_table():
    results = closed_loop_results([outcome(1, NO, NO)], {}, [1.0], [64])
    results |= {"task": "push", "protocol": "far", "budget": 200, "seed": 0}
    assert results["steps"]["p50"] is None
    assert "p50 -" in summary(results)
    assert results["interval"][0] == 0.0


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # values of Newcombe 1998, table I, to four places
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_agrees_with_published_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_at_the_ends():
    assert wilson_interval(100, 100)[1] == 1.0
    assert wilson_interval(0, 100)[0] == 0.0
    assert wilson_interval(97, 100)[0] < 0.97 < wilson_interval(97, 100)[1]


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_no_proportion(successes, n):
    with pytest.raises(ValueError, match="proportion"):
        wilson_interval(successes, n)
