from world_model_ros.sim.lockstep import GoalCounter, GoalResult, Source, goal_line, summary_line
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
    missed = GoalResult(False, 0.1, 75)
    assert goal_line(8, 0, missed, Reach, None) == "goal 8 missed: 100 mm, 75 steps, 3.8 s"
    assert summary_line([reached, missed], 12.4) == "1 of 2 goals reached, median 27 steps, 12 s"
    assert summary_line([missed], 1) == "0 of 1 goals reached, 1 s"
