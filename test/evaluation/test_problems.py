import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from world_model_ros.cli import main
from world_model_ros.errors import UserError
from world_model_ros.evaluation.problems import ProblemSet, load_problems, make_problems, save_problems
from world_model_ros.sim.scene import STICK_RADIUS, WORKSPACE_CENTRE
from world_model_ros.sim.task import yaw_difference
from world_model_ros.sim.tasks import make_world
from world_model_ros.sim.tasks.push import clearance


@pytest.fixture(scope="module")
def push():
    world = make_world("push")
    yield world
    world.close()


@pytest.fixture(scope="module")
def reach():
    world = make_world("reach")
    yield world
    world.close()


@pytest.mark.parametrize("protocol", ["lewm", "far"])
def test_push_problems_are_unsolved_and_reproducible(push, protocol):
    problems = make_problems(push, 6, 1, protocol)
    assert problems == make_problems(push, 6, 1, protocol)
    for problem in problems:
        start, goal = np.asarray(problem.start), np.asarray(problem.goal)
        far = np.hypot(*(goal - start)[2:4]) > 0.05
        assert far or abs(yaw_difference(goal[4], start[4])) > np.radians(25)
        push.reset(state=start)
        assert not push.success(goal)
        assert (problem.last_action is not None) == (protocol == "lewm")


def test_the_explorer_came_to_the_start_by_the_last_action_and_went_on_to_the_goal(push):
    for seed in range(4):
        start, goal, last = push.problem("lewm", seed)
        assert np.all(np.abs(last) <= 0.4)
        rehearsal = {}
        original = push.rehearse

        def noted(*arguments, kept=rehearsal, original=original):
            kept["states"], kept["actions"] = original(*arguments)
            return kept["states"], kept["actions"]

        push.rehearse = noted
        try:
            push.problem("lewm", seed)
        finally:
            del push.rehearse
        states = rehearsal["states"]
        at = next(i for i, state in enumerate(states) if np.array_equal(state, start))
        np.testing.assert_array_equal(states[at + 5], goal)
        np.testing.assert_array_equal(rehearsal["actions"][at], last)


def test_far_goals_come_from_anywhere_near_the_middle_at_any_angle(push):
    drawn = make_problems(push, 40, 4, "far")
    goals = np.array([problem.goal for problem in drawn])
    starts = np.array([problem.start for problem in drawn])
    assert np.all(np.abs(goals[:, 2:4] - WORKSPACE_CENTRE) < 0.12)
    turns = np.abs(yaw_difference(goals[:, 4], starts[:, 4]))
    assert turns.max() > np.radians(150)
    assert np.hypot(*(goals - starts)[:, 2:4].T).max() > 0.15
    for state in (*starts, *goals):
        assert clearance(state[:2], state[2:]) > STICK_RADIUS


def test_reach_windows_are_the_explorers(reach):
    for problem in make_problems(reach, 6, 1, "lewm"):
        apart = np.linalg.norm(np.subtract(problem.start, problem.goal))
        assert 0.08 < apart <= 25 * 0.05 * 0.4 * np.sqrt(2)
        assert len(problem.last_action) == 2


def test_a_criterion_asks_for_more_than_the_one_before(push):
    goal = np.array([0.40, -0.10, 0.52, 0.02, 0.5])
    for change, expected in (
        ((0, 0, 0, 0, 0), (True, True, True)),
        ((0.06, 0, 0, 0, 0), (True, True, False)),
        ((0, 0, 0, 0, 0.5), (True, False, False)),
        ((0, 0, 0, 0.05, 0), (False, False, False)),
        ((0, 0, 0, 0, 2 * np.pi), (True, True, True)),
    ):
        push.reset(state=goal + change)
        assert tuple(push.criteria(goal).values()) == expected
        assert push.success(goal) == expected[1]


def test_a_problem_file_brings_back_the_same_problems(reach, tmp_path):
    problems = ProblemSet("reach", "random", 3, 40, tuple(make_problems(reach, 4, 3)))
    save_problems(tmp_path / "p.json", problems)
    assert load_problems(tmp_path / "p.json", reach) == problems


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda v: v.update(task="push"), "give --task push"),
        (lambda v: v.update(format=7), "format 1"),
        (lambda v: v["problems"][0].pop("goal"), "damaged"),
        (lambda v: v["problems"][0].update(goal=[0.5]), "numbers missing"),
        (lambda v: v["problems"][0].update(goal=[0.5, float("nan")]), "not finite"),
        (lambda v: v["problems"][0].update(goal=v["problems"][0]["start"]), "solved from the start"),
        (lambda v: v["problems"][0].update(start=[9.0, 9.0]), "outside the workspace"),
        (lambda v: v.update(problems=[]), "no problems"),
        (lambda v: v.update(seed="x"), "the seed x"),
        (lambda v: v["problems"][0].update(seed=-3), "the seed -3"),
        (lambda v: v["problems"][0].update(seed=2**63), "no whole number from 0"),
        (lambda v: v["problems"][0].update(index=0.5), "the index 0.5"),
        (lambda v: v.update(protocol="far"), "protocol far, reach has random and lewm"),
    ],
)
def test_a_damaged_problem_file_is_refused_in_a_sentence(reach, tmp_path, damage, sentence):
    path = tmp_path / "p.json"
    save_problems(path, ProblemSet("reach", "random", 3, 40, tuple(make_problems(reach, 2, 3))))
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=sentence):
        load_problems(path, reach)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"{", b"[" * 100_000, b"[1, 2]", b"3"])
def test_what_is_no_problem_file_is_refused_in_a_sentence(reach, tmp_path, content):
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read|no problem file of format 1"):
        load_problems(path, reach)


def test_more_problems_than_the_file_holds_are_refused(checkpoint, reach, tmp_path, capsys):
    path = tmp_path / "p.json"
    save_problems(path, ProblemSet("reach", "random", 3, 40, tuple(make_problems(reach, 2, 3))))
    words = ["evaluate", "--task", "reach", "--checkpoint", checkpoint, "--problems", str(path), "-n", "3"]
    assert main(words) == 2
    assert "holds 2 problems, -n asks for 3" in capsys.readouterr().err


def test_a_saved_problem_file_is_run_again_with_the_same_outcomes(checkpoint, tmp_path):
    saved, first, again = (tmp_path / name for name in ("p.json", "1.json", "2.json"))
    common = ["evaluate", "--task", "push", "--checkpoint", checkpoint, "--budget", "10", "--samples", "8"]
    common += ["--elites", "2", "--iterations", "1"]
    assert main([*common, "-n", "3", "--save-problems", str(saved), "--json", str(first)]) == 0
    assert main([*common, "--problems", str(saved), "--workers", "2", "--json", str(again)]) == 0
    one, two = (json.loads(file.read_text()) for file in (first, again))
    assert one["problems"] == two["problems"]
    assert one["outcomes"] == two["outcomes"]
    assert one["baselines"] == two["baselines"]
    assert set(one["baselines"]) == {"random", "repeat"}
    assert set(one["criteria"]) == {"position", "pose", "pose_with_effector"}
    assert one["budget"] == 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("evaluate --task reach --protocol far", "reach has no protocol far: choose random or lewm"),
        ("evaluate --task reach --problems /nowhere.json", "/nowhere.json cannot be read"),
        ("evaluate --task reach --save-problems /nowhere/p.json", "there is no folder /nowhere"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, capsys):
    assert main(arguments.split()) == 2
    assert sentence in capsys.readouterr().err


def test_the_first_problems_are_the_same_for_every_n(reach):
    assert make_problems(reach, 2, 5, "lewm") == make_problems(reach, 4, 5, "lewm")[:2]
    assert dataclasses.asdict(make_problems(reach, 1, 5)[0])["last_action"] is None


def test_the_problems_of_the_shipped_models_card_are_those_of_its_seed(push):
    found = load_problems(Path("models/push/problems.json"), push)
    assert (found.protocol, found.seed, found.budget, len(found.problems)) == ("lewm", 21, 50, 200)
    drawn = make_problems(push, 5, 21, "lewm")
    assert [problem.seed for problem in found.problems[:5]] == [problem.seed for problem in drawn]
    # Another processor rounds otherwise, and what is pushed magnifies that.
    alike = [
        np.allclose(filed.start, new.start, atol=0.01) and np.allclose(filed.goal, new.goal, atol=0.01)
        for filed, new in zip(found.problems, drawn, strict=False)
    ]
    assert sum(alike) >= 4
