"""Parameters of a node, from the table in parameters.py."""

from dataclasses import replace

import rclpy
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node

from world_model_ros.data.robot import read_robot
from world_model_ros.errors import UserError
from world_model_ros.nodes.parameters import PARAMETERS, ROBOT, Parameter, robot_defaults


def declare(node: Node, name: str, refuse=lambda _: "", changed=lambda: None) -> dict:
    """Declare the parameters of ``name`` and return {parameter: value}, which follows later changes.

    Where the parameter ``robot`` names a robot file, defaults come from it. A change is rejected as a whole
    if a value is out of range, not finite or not a choice, or if ``refuse(changes)`` returns a reason.
    ``changed()`` is called after a change that was accepted. Raises UserError for a value given at start that
    is refused.
    """
    known = {p.name: p for p in PARAMETERS[name]}
    values: dict = {}

    def check(parameters) -> SetParametersResult:
        changes = {p.name: p.value for p in parameters if p.name in known}
        for key, value in changes.items():
            problem = known[key].problem(value)
            if problem:
                return SetParametersResult(successful=False, reason=problem)
        declared = len(values) == len(known)
        problem = refuse(changes) if declared else ""
        if declared and any(p.name == "use_sim_time" for p in parameters):
            problem = "use_sim_time cannot be changed while the node runs: start it again"
        if problem:
            return SetParametersResult(successful=False, reason=problem)
        if declared and changes:
            values.update(changes)
            changed()
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
    if ROBOT.name in known:
        path = _declare(node, known[ROBOT.name])
        defaults = robot_defaults(read_robot(path)) if path else {}
        known |= {name: replace(known[name], default=defaults[name]) for name in known.keys() & defaults}
        values[ROBOT.name] = path
    for parameter in known.values():
        if parameter.name not in values:
            values[parameter.name] = _declare(node, parameter)
    return values


def _declare(node: Node, parameter: Parameter):
    """Declare one parameter; return its value, a list as a tuple. Raises UserError."""
    name, default, descriptor = parameter.name, parameter.default, _descriptor(parameter)
    try:
        if default != ():
            value = node.declare_parameter(name, default, descriptor).value
            return tuple(value) if isinstance(default, tuple) else value
        # rclpy cannot tell the type of an empty list, and a parameter without a value cannot be read.
        numbers = rclpy.Parameter.Type.DOUBLE_ARRAY
        value = node.declare_parameter(name, numbers, _descriptor(replace(parameter, changeable=True))).value
        if value is None:
            node.set_parameters([rclpy.Parameter(name, numbers, [])])
        descriptor.type = numbers.value
        node.set_descriptor(name, descriptor)
        return tuple(value or ())
    except rclpy.exceptions.InvalidParameterTypeException:
        raise UserError(f"{name} of {node.get_name()} has another type: {parameter.wanted}.") from None
    except rclpy.exceptions.InvalidParameterValueException as error:
        reason = str(error).partition("Reason: ")[2].removesuffix(f": {name}")
        raise UserError(f"{node.get_name()}: {reason or error}.") from None


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=parameter.description, read_only=not parameter.changeable)
    if parameter.choices:
        descriptor.additional_constraints = f"One of {', '.join(parameter.choices)}."
    if parameter.low is None:
        return descriptor
    span = {"from_value": parameter.low, "to_value": parameter.high}
    if isinstance(parameter.default, int):
        descriptor.integer_range = [IntegerRange(**span, step=0)]
    else:
        descriptor.floating_point_range = [FloatingPointRange(**span, step=0.0)]
    return descriptor
