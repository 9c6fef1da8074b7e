from world_model_ros.evaluation.closed_loop import Outcome
from world_model_ros.evaluation.results import closed_loop_results, rates, summary
from world_model_ros.evaluation.statistics import wilson_interval


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
    found = rates(OUTCOMES)
    assert found["criteria"] == {
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
    assert (found["successes"], found["success_rate"], found["success_at_end"]) == (2, 0.5, 0.25)
    assert found["interval"] == wilson_interval(2, 4)
    assert found["interval_at_end"] == wilson_interval(1, 4)


def test_floors_are_judged_by_the_same_criteria():
    found = closed_loop_results(
        OUTCOMES, {"random": OUTCOMES[2:], "repeat": OUTCOMES[:1]}, [1.0, 3.0], [64, 32]
    )
    assert found["baselines"]["random"] == rates(OUTCOMES[2:])
    assert found["baselines"]["repeat"]["criteria"]["pose"]["end"] == 1.0
    assert found["planning_ms"]["p50"] == 2.0
    assert found["candidates_per_plan"] == 48
    assert found["steps"] == {"p50": 4, "p95": 4}


def test_the_table_has_a_line_a_criterion_and_moment_with_the_floors_beside_it():
    found = closed_loop_results(OUTCOMES, {"random": OUTCOMES[2:], "repeat": OUTCOMES[3:]}, [1.0], [64])
    found |= {"task": "push", "protocol": "lewm", "budget": 50, "seed": 0}
    lines = summary(found).splitlines()
    row = next(line for line in lines if line.strip().startswith("position, at some moment"))
    low, high = (f"{100 * bound:.1f}" for bound in wilson_interval(3, 4))
    assert row.split()[-8:] == ["75.0", "%", f"[{low},", f"{high}]", "50.0", "%", "0.0", "%"]
    assert len([line for line in lines if ", at the end" in line]) == 3
    widest = next(line for line in lines if "pose and effector, at some moment" in line)
    assert widest.index("25.0 %") == row.index("75.0 %") == lines[1].index("planner")


def test_no_success_and_no_floor_still_make_a_table():
    found = closed_loop_results([outcome(1, NO, NO)], {}, [1.0], [64])
    found |= {"task": "push", "protocol": "far", "budget": 200, "seed": 0}
    assert found["steps"]["p50"] is None
    assert "p50 -" in summary(found)
    assert found["interval"][0] == 0.0
