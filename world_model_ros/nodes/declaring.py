"""Parameters of a node, from the table in parameters.py."""

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node

from world_model_ros.errors import UserError
from world_model_ros.nodes.parameters import PARAMETERS, Parameter


def declare(node: Node, name: str, refuse=lambda _: "", changed=lambda: None) -> dict:
    """Declare the parameters of ``name`` and return {parameter: value}, which follows later changes.

    A change is rejected as a whole if a value is out of range, not finite or not a choice, or if
    ``refuse(changes)`` returns a reason. ``changed()`` is called after a change that was accepted.
    Raises UserError for a value given at start that is refused.
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
    for parameter in known.values():
        try:
            # rclpy cannot tell the type of an empty list, so a list is declared without a value.
            several = isinstance(parameter.default, tuple)
            default = rclpy.Parameter.Type.DOUBLE_ARRAY if several else parameter.default
            value = node.declare_parameter(parameter.name, default, _descriptor(parameter)).value
            values[parameter.name] = tuple(value or ()) if several else value
        except rclpy.exceptions.ParameterException as error:
            raise UserError(f"parameter {parameter.name} of {node.get_name()}: {error}.") from None
    return values


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
