import numpy as np
import pytest

from world_model_ros.planning.goals import GoalInUse

pytestmark = pytest.mark.fault
ONE, OTHER = np.full(4, 1.0, np.float32), np.full(4, 2.0, np.float32)


def test_fault_58_the_goal_in_use_changes_nothing_however_often_it_comes():
    goal = GoalInUse()
    assert goal.latent is None
    assert [goal.take(ONE.copy()) for _ in range(5)] == [True, False, False, False, False]
    np.testing.assert_array_equal(goal.latent, ONE)


def test_fault_58_a_goal_that_differs_or_is_equal_to_an_earlier_one_is_a_new_goal():
    goal = GoalInUse()
    assert [goal.take(latent) for latent in (ONE, OTHER, ONE)] == [True, True, True]


def test_fault_58_after_planning_has_ended_the_same_goal_counts_once_more():
    goal = GoalInUse()
    goal.end()
    assert goal.take(ONE)
    before = goal.latent
    goal.end()
    assert goal.take(ONE)
    assert goal.latent is not before  # who compares by identity sees that it is another
    assert not goal.take(ONE)
