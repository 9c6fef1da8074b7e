"""Which command interface can carry which kind of action."""

from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionSpec

INTERFACES = {"twist": ("twist",), "joint_velocity": ("velocities", "joint_trajectory")}
TWIST_NAMES = ("linear_x", "linear_y", "linear_z", "angular_x", "angular_y", "angular_z")


def check_interface(action: ActionSpec, interface: str) -> None:
    """Raise UserError, naming both sides, unless ``interface`` can carry the checkpoint's actions."""
    fitting = INTERFACES[action.kind]
    if interface not in fitting:
        raise UserError(
            f"command.interface {interface!r} cannot carry the checkpoint's actions, which are "
            f"{action.kind} {list(action.names)} ({action.unit}): set it to {' or '.join(fitting)}."
        )
    if action.kind == "twist" and not set(action.names) <= set(TWIST_NAMES):
        raise UserError(
            f"the checkpoint's twist actions {list(action.names)} must be among {list(TWIST_NAMES)}."
        )
