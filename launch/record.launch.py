"""Records a robot's episodes; the services recorder/start, stop, success, failure and others control it."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription
from world_model_ros.data.robot import read_robot
from world_model_ros.errors import UserError
from world_model_ros.nodes import arguments, environment

# name, default, meaning; what is left empty stays as in params_file.
ARGUMENTS = (
    ("robot", "", "robot file, a copy of config/robot.yaml; required"),
    ("out", "", "episode file (.h5) to write or continue; required"),
    (
        "params_file",
        str(environment.share() / "config" / "record.yaml"),
        "parameters of recorder_node: a copy of config/record.yaml",
    ),
    ("keep_last", "", "seconds that are kept in memory for recorder/keep_last"),
    ("namespace", "", "of the node and of the relative topics in the robot file"),
    ("use_sim_time", "", "true: use the time of /clock"),
    ("log_level", "info", "debug, info, warn or error"),
)
TYPES = {"robot": str, "out": str, "keep_last": float, "use_sim_time": bool}


def generate_launch_description():
    """Return the graph: recorder_node."""
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(n, default_value=value, description=d) for n, value, d in ARGUMENTS),
            *(SetEnvironmentVariable(*variable) for variable in environment.fast_dds_profile().items()),
            OpaqueFunction(function=nodes),
        ]
    )


def nodes(context):
    """Return the node. Raises UserError for what would make it refuse."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    for name in ("robot", "out"):
        if not given[name]:
            raise UserError(f"{name} is missing: add {name}:=FILE.")
    read_robot(given["robot"])
    file = Path(given["params_file"]).expanduser().resolve()
    if not file.is_file():
        raise UserError(f"there is no params_file {file}: give a copy of config/record.yaml.")
    namespace = given["namespace"].strip("/")
    arguments.check_file(file, {"recorder_node": f"/{namespace}/recorder_node".replace("//", "/")})
    arguments.check_log_level(given["log_level"])
    wins = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in TYPES.items()
        if given[name]
    }
    return [
        Node(
            package="world_model_ros",
            executable="recorder_node",
            name="recorder_node",
            namespace=given["namespace"],
            parameters=[str(file), wins],
            ros_arguments=["--log-level", given["log_level"]],
            output="both",
            emulate_tty=False,
            on_exit=Shutdown(reason="recorder_node ended"),
            sigterm_timeout="120.0",  # it joins the episodes; what it does not finish is finished next time
            sigkill_timeout="10.0",
        )
    ]
