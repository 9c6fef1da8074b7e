import numpy as np
import pytest

from world_model_ros.sim.lockstep import (
    CameraClock,
    ClockGuard,
    GoalCounter,
    GoalResult,
    Source,
    goal_line,
    summary_line,
)
from world_model_ros.sim.tasks import make_world
from world_model_ros.sim.tasks.reach import Reach


def test_time_goes_on_while_nobody_is_there():
    assert Source().ready(100)


def test_waits_for_what_is_due_once_the_source_speaks():
    source = Source()
    source.heard(100)
    assert source.ready(100)
    assert not source.ready(150)
    source.heard(150)
    assert source.ready(150)


def test_a_source_that_fell_silent_is_waited_for_only_once():
    source = Source()
    source.expect()
    assert not source.ready(100)
    source.missed()
    assert source.ready(100)
    assert source.ready(150)
    source.heard(150)
    assert not source.ready(200)


def test_late_messages_do_not_set_the_newest_back():
    source = Source()
    source.heard(200)
    source.heard(100)
    assert source.ready(200)


def test_a_goal_is_reached_after_settling():
    counter = GoalCounter(budget=75, settle=5)
    counter.first_plan()
    results = [counter.step(success, 0.01) for success in [True] * 4 + [False] + [True] * 5]
    assert results[:-1] == [None] * 9
    assert results[-1] == GoalResult(True, 0.01, 10)


def test_a_goal_is_missed_when_the_budget_is_used_up():
    counter = GoalCounter(budget=10)
    counter.first_plan()
    results = [counter.step(False, 0.2) for _ in range(10)]
    assert results[:-1] == [None] * 9
    assert results[-1] == GoalResult(False, 0.2, 10)


def test_nothing_counts_before_the_first_plan():
    counter = GoalCounter(budget=3)
    assert [counter.step(False, 0.2) for _ in range(20)] == [None] * 20
    counter.first_plan()
    assert counter.step(False, 0.2) is None


def test_lines_for_people():
    reached = GoalResult(True, 0.0071, 27)
    assert goal_line(3, 5, reached, Reach, 31.2) == "goal 3/5 reached: 7 mm, 27 steps, 1.4 s, planning 31 ms"
    missed = GoalResult(False, 0.1, 75, reason="not arrived")
    assert goal_line(8, 0, missed, Reach, None) == "goal 8 missed: 100 mm, 75 steps, 3.8 s: not arrived"
    assert (
        summary_line([reached, missed], 12.4) == "1 of 2 goals reached, 50 % [9, 91], median 27 steps, 12 s"
    )
    assert summary_line([missed], 1) == "0 of 1 goals reached, 0 % [0, 79], 1 s"


STEP, PERIOD = 6_250_000, 50_000_000


def moments(rate, jitter, seconds=20, seed=0):
    camera = CameraClock(rate, jitter, STEP, seed)
    return [m for t in range(0, round(seconds * 1e9), PERIOD) for m in camera.taken(t, t + PERIOD)]


@pytest.mark.parametrize("rate", [5, 10, 15, 20, 24, 30, 60])
@pytest.mark.parametrize("jitter", [0.0, 0.01])
def test_frames_come_at_the_rate_and_at_physics_steps(rate, jitter):
    found = moments(rate, jitter)
    assert len(found) == pytest.approx(20 * rate, rel=0.02)
    assert all(moment % STEP == 0 for moment in found)
    due = np.arange(1, 20 * rate - 1) * 1e9 / rate
    off = np.array([min(abs(np.array(found) - moment)) for moment in due])
    assert off.max() <= jitter * 1e9 + STEP  # half a step of rounding, or what keeps frames apart
    assert min(np.diff(found)) >= max(2 * STEP, 0.4e9 / rate)
    if jitter:
        assert np.std(np.diff(found)) > 3e6


def test_equal_seeds_give_equal_cameras():
    assert moments(30, 0.01, seed=1) == moments(30, 0.01, seed=1)
    assert moments(30, 0.01, seed=1) != moments(30, 0.01, seed=2)


def test_frames_of_a_time_that_was_left_out_are_not_taken_later():
    camera = CameraClock(20, 0.0, STEP)
    assert camera.taken(0, PERIOD) == [PERIOD]
    assert camera.taken(10 * PERIOD, 10 * PERIOD) == []
    assert camera.taken(10 * PERIOD, 11 * PERIOD) == [11 * PERIOD]


def test_looking_between_physics_steps_changes_nothing_and_shows_the_moment():
    worlds = [make_world("reach", seed=3) for _ in range(2)]
    pictures = []

    def look(substep):
        pictures.append((substep, worlds[1].state(), worlds[1].render()))

    for _ in range(3):
        worlds[0].step(np.array([0.4, -0.2]))
        worlds[1].step(np.array([0.4, -0.2]), look)
    np.testing.assert_array_equal(worlds[0].state(), worlds[1].state())
    np.testing.assert_array_equal(worlds[0].render(), worlds[1].render())
    assert [substep for substep, _, _ in pictures] == 3 * list(range(1, worlds[0].substeps + 1))
    states = np.array([state for _, state, _ in pictures])
    np.testing.assert_allclose(np.diff(states[:, 0])[1:], 0.4 * 0.05 / 8, rtol=0.1)
    assert any((pictures[0][2] != picture).any() for _, _, picture in pictures[1:])
    for world in worlds:
        world.close()


def test_a_time_that_is_not_ours_is_somebody_elses_clock():
    guard = ClockGuard()
    for stamp in range(0, 2000 * PERIOD, PERIOD):
        guard.published(stamp)
        guard.heard(stamp)
        assert not guard.foreign
    guard.heard(7)
    assert guard.foreign
