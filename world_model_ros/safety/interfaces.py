"""Which command interface can carry which kind of action."""

import re

from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionSpec

INTERFACES = {"twist": ("twist",), "joint_velocity": ("velocities", "joint_trajectory")}
TWIST_NAMES = ("linear_x", "linear_y", "linear_z", "angular_x", "angular_y", "angular_z")
UNITS = {"m/s", "rad/s"}  # REP 103; nothing on a command topic says otherwise


def check_interface(action: ActionSpec, interface: str) -> None:
    """Raise UserError, naming both sides, unless ``interface`` can carry the checkpoint's actions."""
    fitting = INTERFACES[action.kind]
    if interface not in fitting:
        raise UserError(
            f"command.interface {interface!r} cannot carry the checkpoint's actions, which are "
            f"{action.kind} {list(action.names)} ({action.unit}): set it to {' or '.join(fitting)}."
        )
    units = [word for word in re.split(r"[\s,;]+|\band\b", action.unit) if word]
    if not units or not set(units) <= UNITS:
        raise UserError(
            f"the unit of the checkpoint's actions is {action.unit!r}, robots take m/s and rad/s: record and "
            "train in these."
        )
    if action.kind == "twist" and not set(action.names) <= set(TWIST_NAMES):
        raise UserError(
            f"the checkpoint's twist actions {list(action.names)} must be among {list(TWIST_NAMES)}."
        )


def warn_interface(interface: str) -> str:
    """Return what a person must know of an interface before the robot moves, or ""."""
    if interface != "velocities":
        return ""
    return (
        "command.interface is velocities: a forward_command_controller keeps the last velocity when "
        "command_node dies or its computer hangs. Use a controller that times out, or set a command timeout "
        "in the drives"
    )
