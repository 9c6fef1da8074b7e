import numpy as np
import pytest

from world_model_ros.control.joints import integrate, match_joints

NAMES = ["x", "b", "a"]
VALUES = [9.0, 2.0, 1.0]


@pytest.mark.fault
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_fault_10_joints_are_matched_by_name_whatever_the_order(order):
    found = match_joints(("a", "b"), [NAMES[i] for i in order], [VALUES[i] for i in order])
    assert found.tolist() == [1.0, 2.0]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("names", "values", "says"),
    [
        (["a"], [1.0], "joint b 0 times"),
        (["a", "b", "b"], [1.0, 2.0, 3.0], "joint b 2 times"),
        (["a", "b", "b"], [1.0, 2.0, 2.0], "joint b 2 times"),
        (["a", "b"], [1.0], "2 names and 1 values"),
        (["a", "b"], [], "2 names and 0 values"),
        ([], [], "joint a 0 times"),
    ],
)
def test_fault_11_missing_or_duplicated_joints_are_refused(names, values, says):
    with pytest.raises(ValueError, match=says):
        match_joints(("a", "b"), names, values)


@pytest.mark.fault
def test_fault_11_extra_joints_are_ignored_whatever_they_say():
    assert match_joints(("a",), ["x", "a", "x"], [np.nan, 1.0, np.inf]).tolist() == [1.0]


@pytest.mark.fault
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_fault_12_joints_that_are_not_finite_are_refused(broken):
    with pytest.raises(ValueError, match="joint_states holds numbers that are not finite"):
        match_joints(("a", "b"), ["a", "b"], [1.0, broken])


def test_the_topic_is_named():
    with pytest.raises(ValueError, match="command/executed"):
        match_joints(("a",), [], [], "command/executed")


def test_positions_are_integrated_to_the_end_of_each_step():
    assert integrate([1.0], [[2.0], [4.0]], 0.5).tolist() == [[2.0], [4.0]]
