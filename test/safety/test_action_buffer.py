import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from world_model_ros.safety.action_buffer import ActionBuffer

PERIOD = 50


def buffer(max_age=500):
    return ActionBuffer(PERIOD, max_age)


def plan(length, value=1.0):
    return np.full((length, 2), value) + np.arange(length)[:, None]


def test_plays_row_by_row_from_its_start():
    played = buffer()
    played.put(1000, plan(3))
    assert played.action_at(900) is None
    assert [played.action_at(t)[0] for t in (1000, 1050, 1100)] == [1, 2, 3]
    assert played.action_at(1150) is None


def test_early_and_late_ticks_neither_repeat_nor_skip():
    played = buffer()
    played.put(1000, plan(3))
    assert [played.action_at(t)[0] for t in (980, 1070, 1090)] == [1, 2, 3]


def test_newer_plan_takes_over_only_when_due():
    played = buffer()
    played.put(1000, plan(6))
    played.put(1100, plan(6, 100))
    assert played.action_at(1050)[0] == 2
    assert played.action_at(1100)[0] == 100
    played.drop_before(1100)
    assert len(played.plans) == 1
    assert played.action_at(1050) is None


def test_used_up_newer_plan_does_not_fall_back_to_an_older_one():
    played = buffer()
    played.put(1000, plan(20))
    played.put(1100, plan(2, 100))
    assert played.action_at(1200) is None


def test_one_plan_is_not_played_for_ever():
    played = buffer(max_age=200)
    played.put(0, plan(100))
    assert played.action_at(150) is not None
    assert played.action_at(200) is None


@pytest.mark.parametrize("bad", [np.zeros((0, 2)), np.zeros(2), np.array([[np.nan, 0.0]])])
def test_unusable_plans_are_refused_and_change_nothing(bad):
    played = buffer()
    played.put(0, plan(2))
    with pytest.raises(ValueError, match="plan"):
        played.put(0, bad)
    assert played.action_at(0)[0] == 1


def test_returned_action_is_a_copy():
    played = buffer()
    played.put(0, plan(2))
    played.action_at(0)[:] = 9
    assert played.action_at(0)[0] == 1


@given(
    puts=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 30)), max_size=8),
    time=st.integers(0, 4000),
)
def test_what_is_played_belongs_to_the_last_plan_that_is_due(puts, time):
    played = buffer()
    kept = []
    for i, (start, length) in enumerate(puts):
        played.put(start, np.full((length, 1), float(i)))
        kept = [(s, n, j) for s, n, j in kept if s < start] + [(start, length, i)]
    due = [p for p in kept if p[0] <= time + PERIOD // 2]
    action = played.action_at(time)
    if not due:
        assert action is None
        return
    start, length, i = due[-1]
    steps = (time + PERIOD // 2 - start) // PERIOD
    if steps < min(length, 10):
        assert action[0] == i
    else:
        assert action is None
