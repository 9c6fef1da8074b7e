import numpy as np
import pytest

from world_model_ros.monitoring.progress import Progress, nobody_tried

STEP = 250_000_000


@pytest.fixture
def progress():
    return Progress(timeout=2.0, reached=1.0)


def walk(progress, distances, start=0):
    return [progress.step((start + i) * STEP, distance) for i, distance in enumerate(distances)]


@pytest.mark.fault
def test_fault_35_without_progress_planning_ends_after_the_timeout_and_says_so(progress):
    reasons = walk(progress, [10.0] * 12)
    assert reasons[:9] == [""] * 9
    assert all("no progress towards the goal for 2 s" in reason for reason in reasons[9:])
    assert "planner/enable" in reasons[9]


def test_coming_nearer_goes_on(progress):
    assert walk(progress, [10 * 0.97**i for i in range(60)]) == [""] * 60


def test_creeping_is_no_progress(progress):
    assert walk(progress, [10 * 0.9999**i for i in range(12)])[-1]


def test_going_away_and_coming_back_is_none(progress):
    assert walk(progress, [5.0, 9.0, 5.0, 9.0, 5.0, 9.0, 5.0, 9.0, 5.0, 9.0])[-1]


def test_at_the_goal_there_is_nothing_left_to_do(progress):
    assert walk(progress, [0.9] * 100) == [""] * 100


def test_a_new_goal_begins_anew(progress):
    assert walk(progress, [10.0] * 12)[-1]
    progress.start()
    assert walk(progress, [20.0] * 9, 12) == [""] * 9


def test_a_time_in_which_nobody_tried_does_not_count(progress):
    walk(progress, [10.0] * 5)
    assert walk(progress, [10.0] * 4, 1000) == [""] * 4
    assert walk(progress, [10.0] * 4, 1004)[-1]


def test_a_clock_set_back_begins_anew(progress):
    walk(progress, [10.0] * 8, 1000)
    assert walk(progress, [10.0] * 8) == [""] * 8
    assert walk(progress, [10.0] * 4, 8)[-1]


def test_zero_goes_on_for_ever():
    assert walk(Progress(0.0), [10.0] * 1000) == [""] * 1000


def test_a_time_in_which_the_robot_may_not_move_does_not_count(progress):
    assert walk(progress, [10.0] * 5) == [""] * 5
    for i in range(5, 5 + 124):  # 31 s
        assert progress.pause(i * STEP) == ""
    assert walk(progress, [10.0] * 4, 129) == [""] * 4
    assert walk(progress, [10.0] * 2, 133)[-1]


def test_a_pause_that_comes_first_and_a_clock_set_back_in_one_change_nothing(progress):
    progress.pause(1000 * STEP)
    assert walk(progress, [10.0] * 9, 1001) == [""] * 9
    progress.pause(5 * STEP)
    assert walk(progress, [10.0] * 9, 6) == [""] * 9
    assert walk(progress, [10.0] * 2, 15)[-1]


def test_that_the_robot_stands_still_once_planning_has_ended_is_no_reason_to_begin_again(progress):
    assert walk(progress, [10.0] * 12)[-1]
    assert all(progress.pause(i * STEP) for i in range(12, 100))
    assert walk(progress, [10.0], 100)[-1]
    progress.start()
    assert progress.pause(101 * STEP) == ""


def test_nobody_tried_where_only_zeros_or_nothing_went_out():
    zeros, some = np.zeros((5, 2)), np.full((5, 2), 0.1)
    assert nobody_tried(zeros, True, True)
    assert nobody_tried(None, False, True)  # a released robot: nothing is sent
    assert not nobody_tried(some, True, True)
    assert not nobody_tried(zeros, False, True)  # a part of it is not known
    assert not nobody_tried(None, False, False)  # nothing tells what goes out
