"""A robot's encoder, planner, command and monitor nodes; one that dies is started again."""

from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
    TimerAction,
)
from launch.substitutions import LaunchConfiguration, TextSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription
from world_model_ros.nodes import environment
from world_model_ros.nodes.deploy import ARGUMENTS, NODES, REFUSED, RESPAWN, VIEWER, deployment


def generate_launch_description():
    """Return the graph: encoder_node, planner_node, command_node, monitor_node, imagination_node."""
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(n, default_value=value, description=d) for n, value, _, d in ARGUMENTS),
            *(SetEnvironmentVariable(*variable) for variable in environment.fast_dds_profile().items()),
            OpaqueFunction(function=nodes),
        ]
    )


def nodes(context):
    """Return the nodes. Raises UserError for what would make all of them refuse."""
    deployed = deployment({name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS})

    def node(name):
        wins = {
            parameter: ParameterValue(TextSubstitution(text=value), value_type=kind)
            for parameter, (value, kind) in deployed.parameters(name).items()
        }
        return Node(
            package="world_model_ros",
            executable=name,
            name=name,
            namespace=deployed.given["namespace"],
            parameters=[*deployed.files, wins],
            remappings=list(deployed.remappings),
            ros_arguments=["--log-level", deployed.given["log_level"]],
            output="both",
            respawn=name in NODES,
            respawn_delay=RESPAWN,
            on_exit=end_if_refused if name in NODES else start_again,
            sigterm_timeout="2.0",
            sigkill_timeout="1.0",
        )

    def start_again(event, context):
        # respawn=True would start it for ever where it has refused to start and printed why.
        if context.is_shutdown or event.returncode == REFUSED:
            return None
        return TimerAction(period=RESPAWN, actions=[node(VIEWER)])

    return [node(name) for name in deployed.nodes]


def end_if_refused(event, _context):
    """End everything when a node has refused to start: it has printed why."""
    if event.returncode == REFUSED:
        return Shutdown(reason=f"{event.process_name} refused to start, see its error above")
    return None
