"""The simulated robot and the nodes that see, plan and command; ends when one of them ends.

With view:=true also view_node, the page in the browser.
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription
from world_model_ros.nodes import environment
from world_model_ros.nodes.starter import ARGUMENTS, OF_SIM_NODE, OPTIONAL, VIEW_ARGUMENTS, check

PARAMETERS = str(environment.share() / "config" / "sim.yaml")


def generate_launch_description():
    """Return the graph: sim_node, encoder_node, planner_node, command_node, monitor_node, imagination_node.

    The last one is optional; when it ends, the others go on.
    """
    values = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, _, kind, _ in ARGUMENTS
        if name in OF_SIM_NODE
    }
    page = {
        name.removeprefix("view_"): ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, _, kind, _ in VIEW_ARGUMENTS
        if name != "view"
    }
    checkpoint = {"checkpoint": ParameterValue(LaunchConfiguration("checkpoint"), value_type=str)}

    def node(name, parameters, condition=None):
        needed = {} if name in OPTIONAL else {"on_exit": Shutdown(reason=f"{name} ended")}
        return Node(
            package="world_model_ros",
            executable=name,
            name=name,
            condition=condition,
            parameters=[PARAMETERS, parameters],
            output="screen",
            sigterm_timeout="2.0",  # a busy machine takes a second, and escalating is logged as an error
            sigkill_timeout="1.0",
            **needed,
        )

    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(n, default_value=value, description=d)
                for n, value, _, d in (*ARGUMENTS, *VIEW_ARGUMENTS)
            ),
            DeclareLaunchArgument(
                "checkpoint",
                default_value=LaunchConfiguration("task"),
                description="checkpoint folder, or the name of a shipped one",
            ),
            OpaqueFunction(function=check_arguments),
            *(SetEnvironmentVariable(*variable) for variable in environment.fast_dds_profile().items()),
            node("sim_node", values),
            node("encoder_node", checkpoint),
            node("planner_node", checkpoint),
            node("command_node", checkpoint),
            node("monitor_node", checkpoint),
            node("imagination_node", checkpoint, IfCondition(LaunchConfiguration("imagination"))),
            node("view_node", page, IfCondition(LaunchConfiguration("view"))),
        ]
    )


def check_arguments(context):
    """Raise UserError, naming the argument, for a value that a node would refuse."""
    names = (*(name for name, *_ in (*ARGUMENTS, *VIEW_ARGUMENTS)), "checkpoint")
    check({name: LaunchConfiguration(name).perform(context) for name in names})
