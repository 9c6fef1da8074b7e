import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from world_model_ros.control.commander import Commander, State
from world_model_ros.control.interfaces import check_interface
from world_model_ros.control.joints import integrate, match_joints
from world_model_ros.control.limits import Limits
from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionSpec
from world_model_ros.planning.action_buffer import ActionBuffer

NAMES = ("linear_x", "linear_y")
PERIOD = 50


@pytest.fixture
def commander():
    return Commander(Limits(NAMES, (-0.4, -0.4), (0.4, 0.4)), ActionBuffer(PERIOD, 500))


def running(commander):
    commander.joints()
    commander.plan(NAMES, 1000, np.full((20, 2), 0.1))
    assert commander.tick(1000).state is State.RUNNING


def test_sends_nothing_before_there_is_a_robot_and_a_plan(commander):
    decision = commander.tick(1000)
    assert (decision.state, decision.action) == (State.WAITING, None)
    commander.joints()
    decision = commander.tick(1050)
    assert (decision.state, decision.action) == (State.READY, None)


def test_plays_the_plan_within_limits_and_counts_what_it_clamped(commander):
    commander.joints()
    commander.plan(NAMES, 1000, [[0.1, -0.2], [5.0, 0.0]])
    assert commander.tick(1000).action.tolist() == [0.1, -0.2]
    assert commander.tick(1050).action.tolist() == [0.4, 0.0]
    assert commander.clamped == 1


def test_stands_still_when_plans_stay_away_and_recovers_by_itself(commander):
    running(commander)
    decision = commander.tick(1500)
    assert decision.state is State.HOLD
    assert decision.action.tolist() == [0, 0]
    commander.plan(NAMES, 1550, [[0.3, 0.3]])
    assert commander.tick(1550).action.tolist() == [0.3, 0.3]


def test_emergency_stop_is_latched_until_reset(commander):
    running(commander)
    commander.emergency_stop()
    for time in (1050, 1100):
        commander.plan(NAMES, time, [[0.3, 0.3]] * 3)
        decision = commander.tick(time)
        assert decision.state is State.FAULT
        assert decision.action.tolist() == [0, 0]
    commander.reset()
    assert commander.tick(1150).state is State.WAITING
    running_again = commander
    running_again.joints()
    running_again.plan(NAMES, 1200, [[0.3, 0.3]])
    assert running_again.tick(1200).state is State.RUNNING


def test_time_set_back_drops_the_plan(commander):
    running(commander)
    decision = commander.tick(900)
    assert (decision.state, decision.action) == (State.WAITING, None)


@pytest.mark.parametrize(
    ("names", "actions"),
    [
        (("linear_y", "linear_x"), [[0.1, 0.1]]),
        (NAMES, []),
        (NAMES, [[0.1]]),
        (NAMES, [[0.1, float("nan")]]),
        (NAMES, [[0.1, float("inf")]]),
    ],
)
def test_unusable_plans_are_refused_with_a_reason(commander, names, actions):
    running(commander)
    assert "plan" in commander.plan(names, 1000, actions)
    assert commander.rejected == 1
    assert commander.tick(1050).action.tolist() == [0.1, 0.1]


def test_says_state_and_reason_only_when_they_change(commander):
    commander.joints()
    assert [commander.tick(t).changed for t in (1000, 1050)] == [True, False]
    commander.plan(NAMES, 1100, np.zeros((5, 2)))
    assert [commander.tick(t).changed for t in (1100, 1150)] == [True, False]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=2))
def test_no_action_leaves_the_limits(action):
    limits = Limits(NAMES, (-0.4, -0.1), (0.4, 0.2))
    clamped, changed = limits.clamp(np.array(action))
    assert (clamped >= limits.low).all()
    assert (clamped <= limits.high).all()
    assert changed == (clamped.tolist() != action)


@pytest.mark.parametrize(
    ("low", "high"), [((0.4,), (-0.4,)), ((0.1,), (0.4,)), ((float("nan"),), (1.0,)), ((-1.0, -1.0), (1.0,))]
)
def test_unusable_limits_are_refused(low, high):
    with pytest.raises(UserError, match="limits"):
        Limits(("joint1",), low, high)


def test_an_action_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match="shape"):
        Limits(NAMES, (-1, -1), (1, 1)).clamp([0.0])


def spec(kind, names):
    values = (1.0,) * len(names)
    return ActionSpec(names, kind, "rad/s", (0.0,) * len(names), values, tuple(-v for v in values), values)


@pytest.mark.parametrize(
    ("kind", "interface", "fits"),
    [
        ("twist", "twist", True),
        ("twist", "velocities", False),
        ("joint_velocity", "velocities", True),
        ("joint_velocity", "joint_trajectory", True),
        ("joint_velocity", "twist", False),
        ("twist", "positions", False),
    ],
)
def test_a_kind_of_action_goes_only_over_interfaces_that_can_carry_it(kind, interface, fits):
    action = spec(kind, ("linear_x",) if kind == "twist" else ("joint1",))
    if fits:
        check_interface(action, interface)
    else:
        with pytest.raises(UserError) as error:
            check_interface(action, interface)
        assert interface in str(error.value)
        assert kind in str(error.value)


def test_twist_actions_must_be_components_of_a_twist():
    with pytest.raises(UserError, match="linear_w"):
        check_interface(spec("twist", ("linear_w",)), "twist")


def test_joints_are_matched_by_name_whatever_the_order():
    found = match_joints(("a", "b"), ["x", "b", "a"], [9.0, 2.0, 1.0])
    assert found.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("names", "positions"),
    [(["a"], [1.0]), (["a", "b", "b"], [1.0, 2.0, 3.0]), (["a", "b"], [1.0]), (["a", "b"], [1.0, np.nan])],
)
def test_joint_states_that_leave_a_joint_open_are_refused(names, positions):
    with pytest.raises(ValueError, match="joint_states"):
        match_joints(("a", "b"), names, positions)


def test_positions_are_integrated_to_the_end_of_each_step():
    assert integrate([1.0], [[2.0], [4.0]], 0.5).tolist() == [[2.0], [4.0]]
