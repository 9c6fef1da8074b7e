import pytest

from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionSpec
from world_model_ros.safety.interfaces import check_interface

pytestmark = pytest.mark.fault


def spec(kind, names, unit):
    values = (1.0,) * len(names)
    return ActionSpec(names, kind, unit, (0.0,) * len(names), values, tuple(-v for v in values), values)


@pytest.mark.parametrize(
    ("kind", "interface", "fits"),
    [
        ("twist", "twist", True),
        ("twist", "velocities", False),
        ("twist", "joint_trajectory", False),
        ("joint_velocity", "velocities", True),
        ("joint_velocity", "joint_trajectory", True),
        ("joint_velocity", "twist", False),
        ("twist", "positions", False),
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
        assert interface in str(error.value)
        assert kind in str(error.value)


def test_fault_25_twist_actions_must_be_components_of_a_twist():
    with pytest.raises(UserError, match="linear_w"):
        check_interface(spec("twist", ("linear_w",), "m/s"), "twist")


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
