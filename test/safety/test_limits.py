import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionSpec
from world_model_ros.safety.limits import LEASH, Limits, PoseKeeper, check_interface, narrowed

NAMES = ("a", "b")
finite = st.floats(allow_nan=False, allow_infinity=False)
pairs = st.tuples(finite, finite).map(np.array)


@given(pairs)
def test_no_action_leaves_the_limits(action):
    limits = Limits(NAMES, (-0.4, -0.1), (0.4, 0.2))
    clamped = limits.clamp(action)
    assert (clamped.action >= limits.low).all()
    assert (clamped.action <= limits.high).all()
    assert bool(clamped.by) == (clamped.action.tolist() != action.tolist())
    assert set(clamped.by) <= {"limits.low", "limits.high"}


@given(pairs, pairs, pairs)
def test_all_limits_together_hold(action, previous, positions):
    limits = Limits(NAMES, (-0.4, -0.1), (0.4, 0.2), (0.05, 0.05), (-1.0, -2.0), (1.0, 2.0))
    previous = np.clip(previous, limits.low, limits.high)
    clamped = limits.clamp(action, previous, positions, period=0.05)
    assert (clamped.action >= limits.low).all()
    assert (clamped.action <= limits.high).all()
    ends = positions + 0.05 * clamped.action
    for i in range(2):
        if -1 - i <= positions[i] <= 1 + i:
            assert -1 - i - 1e-9 <= ends[i] <= 1 + i + 1e-9
        elif positions[i] > 0:
            assert clamped.action[i] <= 0
        else:
            assert clamped.action[i] >= 0
        if not {"limits.position_low", "limits.position_high"} & set(clamped.by):
            assert abs(clamped.action[i] - previous[i]) <= 0.05 + 1e-12


def test_what_had_to_change_an_action_is_named():
    limits = Limits(NAMES, (-1, -1), (1, 1), (0.5, 0.5), (-2, -2), (2, 2))
    clamped = limits.clamp([3, 0], np.array([0.4, 0]), np.array([1.99, 0]), period=0.05)
    assert clamped.by == ("limits.high", "limits.max_step", "limits.position_high")
    np.testing.assert_allclose(clamped.action, [0.2, 0])


def test_the_end_of_a_joint_comes_before_a_smooth_start():
    limits = Limits(("a",), [-1], [1], [0.1], [-2], [2])
    assert limits.clamp([1], np.array([1.0]), np.array([2.0]), period=0.05).action.tolist() == [0]


def test_what_is_not_given_does_not_limit():
    limits = Limits(NAMES, (-1, -1), (1, 1), (0.5, 0.5), (-2, -2), (2, 2))
    assert limits.clamp([1, 1]).action.tolist() == [1, 1]


@pytest.mark.parametrize("action", [[0.0], [0.0, np.nan], [np.inf, 0.0], 0.0])
def test_an_action_of_another_shape_or_not_finite_is_an_error(action):
    with pytest.raises(ValueError, match="shape|finite"):
        Limits(NAMES, (-1, -1), (1, 1)).clamp(action)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"low": (0.4, -1), "high": (-0.4, 1)}, "limits of a .* low must be below high"),
        ({"low": (0.1, -1), "high": (0.4, 1)}, "standing still"),
        ({"low": (np.nan, -1), "high": (1, 1)}, "finite"),
        ({"low": (-np.inf, -1), "high": (1, 1)}, "finite"),
        ({"low": (-1, -1), "high": (1,)}, "one number for each"),
        ({"low": (), "high": ()}, "one number for each"),
        ({"low": (-1, -1), "high": (1, 1), "max_step": (0, 1)}, "max_step .* positive"),
        ({"low": (-1, -1), "high": (1, 1), "max_step": (-1, 1)}, "max_step .* positive"),
        ({"low": (-1, -1), "high": (1, 1), "max_step": (np.nan, 1)}, "max_step .* finite"),
        ({"low": (-1, -1), "high": (1, 1), "position_low": (-1, -1)}, "go together"),
        ({"low": (-1, -1), "high": (1, 1), "position_high": (1, 1)}, "go together"),
        (
            {"low": (-1, -1), "high": (1, 1), "position_low": (1, 1), "position_high": (-1, -1)},
            "position limits of a",
        ),
        (
            {"low": (-1, -1), "high": (1, 1), "position_low": (-1,), "position_high": (1, 1)},
            "one number for each",
        ),
    ],
)
def test_fault_15_limits_that_are_missing_or_inverted_are_refused(arguments, expected):
    with pytest.raises(UserError, match=expected):
        Limits(NAMES, **arguments)


def test_there_must_be_something_to_limit():
    with pytest.raises(UserError, match="no actions"):
        Limits((), (), ())


def test_a_robots_limits_narrow_the_checkpoints_and_never_widen_them():
    action = ActionSpec(
        ("a", "b"), "joint_velocity", "rad/s", (0.0,) * 2, (1.0,) * 2, (-1.0,) * 2, (1.0,) * 2
    )
    assert narrowed(action, (), ()) == action
    limited = narrowed(action, (-0.2, -5.0), (0.3, 0.4))
    assert (limited.low, limited.high) == ((-0.2, -1.0), (0.3, 0.4))
    for low, high in (((-0.2,), ()), ((0.5, -1.0), ()), ((), (float("nan"), 1.0)), ((0.3, -1.0), (0.2, 1.0))):
        with pytest.raises(UserError, match="limit"):
            narrowed(action, low, high)


def spec(kind, names, unit):
    values = (1.0,) * len(names)
    return ActionSpec(names, kind, unit, (0.0,) * len(names), values, tuple(-v for v in values), values)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("kind", "interface", "fits"),
    [
        ("twist", "twist", True),
        ("twist", "twist_unstamped", True),
        ("twist", "velocities", False),
        ("twist", "joint_trajectory", False),
        ("joint_velocity", "velocities", True),
        ("joint_velocity", "joint_trajectory", True),
        ("joint_velocity", "twist", False),
        ("joint_velocity", "twist_unstamped", False),
        ("twist", "positions", False),
        ("joint_position", "joint_trajectory", False),
    ],
)
def test_fault_25_a_kind_of_action_goes_only_over_interfaces_that_can_carry_it(kind, interface, fits):
    twist = kind == "twist"
    action = spec(kind, ("linear_x",) if twist else ("joint1",), "m/s" if twist else "rad/s")
    if fits:
        check_interface(action, interface)
    else:
        with pytest.raises(UserError) as error:
            check_interface(action, interface)
        assert interface in str(error.value) or kind == "joint_position"
        assert kind in str(error.value)


@pytest.mark.fault
def test_fault_25_twist_actions_must_be_components_of_a_twist():
    with pytest.raises(UserError, match="linear_w"):
        check_interface(spec("twist", ("linear_w",), "m/s"), "twist")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("kind", "unit", "fits"),
    [
        ("joint_velocity", "rad/s", True),
        ("joint_velocity", "rad/s, m/s", True),
        ("joint_velocity", "deg/s", False),
        ("joint_velocity", "", False),
        ("joint_velocity", "rad", False),
        ("twist", "m/s", True),
        ("twist", "m/s and rad/s", True),
        ("twist", "mm/s", False),
        ("twist", "m/s, deg/s", False),
    ],
)
def test_fault_39_actions_in_other_units_than_those_of_ros_are_refused(kind, unit, fits):
    twist = kind == "twist"
    action = spec(kind, ("linear_x",) if twist else ("joint1",), unit)
    interface = "twist" if twist else "velocities"
    if fits:
        check_interface(action, interface)
    else:
        with pytest.raises(UserError, match="unit"):
            check_interface(action, interface)


STILL = np.zeros(2)
START = np.array([0.5, -1.0])


@pytest.fixture
def keeper():
    return PoseKeeper(Limits(("a", "b"), (-0.4, -0.2), (0.4, 0.2), None, (-3, -3), (3, 3)), 0.05)


@pytest.mark.fault
def test_fault_48_an_arm_that_is_moved_by_hand_stays_where_it_was_moved(keeper):
    keeper.poses(STILL, False, START)
    for moved in np.linspace(0, 0.5, 40):
        measured = START + moved
        poses = keeper.poses(STILL, False, measured)
        assert np.abs(poses.end - measured).max() <= 0.4 * 0.05
    assert poses.end.tolist() == pytest.approx(START + 0.5, abs=0.02)
    poses = keeper.poses(STILL, False, START - 0.5)  # in a step
    assert (poses.end == START - 0.5).all()
    assert (poses.last == START - 0.5).all()


def test_a_joint_that_sinks_a_little_under_a_load_is_held_where_it_was(keeper):
    keeper.poses(STILL, False, START)
    for sunk in (0.001, 0.004, 0.009):
        assert (keeper.poses(STILL, False, START - sunk).end == START).all()


@pytest.mark.fault
def test_fault_48_a_plan_after_that_goes_on_from_where_the_arm_is(keeper):
    keeper.poses(np.array([0.4, 0.0]), True, START)
    keeper.poses(STILL, False, START)
    poses = keeper.poses(np.array([0.4, 0.0]), True, START + 0.5)
    assert poses.end == pytest.approx(START + 0.5 + [0.02, 0.0])


@pytest.mark.fault
def test_fault_48_what_is_not_measured_is_forgotten(keeper):
    keeper.poses(STILL, False, START)
    assert keeper.poses(STILL, False, None) is None
    assert (keeper.poses(STILL, False, START + 0.001).end == START + 0.001).all()
    keeper.reset()
    assert (keeper.poses(STILL, False, START).end == START).all()


def test_while_a_plan_is_played_the_poses_are_on_a_leash(keeper):
    for _ in range(100):
        poses = keeper.poses(np.array([0.4, 0.2]), True, START)
        assert (poses.last - START <= np.array([0.4, 0.2]) * (LEASH + 0.075) + 1e-12).all()
