"""A robot's encoder, planner, command and monitor nodes; one that dies is started again."""

from pathlib import Path

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
from world_model_ros.data.robot import RobotFile, read_robot
from world_model_ros.errors import UserError
from world_model_ros.model.config import find_checkpoint, read_spec
from world_model_ros.nodes import arguments, environment

NODES = ("encoder_node", "planner_node", "command_node", "monitor_node")
VIEWER = "imagination_node"  # optional: the others go on without it
RESPAWN = 2.0  # seconds until a node that died is started again
COMMANDS = ("command/twist", "command/velocities", "command/joint_trajectory")
REFUSED = 2  # exit code of a node that has printed what is wrong: a restart would not help
# name, default, meaning; what is left empty stays as in params_file.
ARGUMENTS = (
    ("checkpoint", "", "checkpoint folder, or the name of a shipped one; required"),
    (
        "robot",
        "",
        "robot file, a copy of config/robot.yaml: it gives topics, command interface and limits",
    ),
    (
        "params_file",
        "",
        "parameters of the nodes that differ from the robot file; without one, a copy of "
        "config/robot_arm.yaml or config/robot_base.yaml for your robot (config/robot_arm.yaml if empty)",
    ),
    ("namespace", "", "of all nodes and topics; one for each of several robots"),
    (
        "camera",
        "",
        "topic of the camera, of 10 Hz or more (encoder_node's max_rate drops frames above it); compressed, "
        "the topic below it is read; if empty that of the robot file, or camera/image_raw",
    ),
    ("joint_states", "", "topic of the joint states; if empty that of the robot file, or joint_states"),
    (
        "command_topic",
        "",
        "topic that the robot's controller listens to; if empty that of the robot file, or "
        "command/<interface>",
    ),
    ("command_interface", "", "twist, twist_unstamped, velocities or joint_trajectory"),
    ("compressed", "", "true: read <camera>/compressed"),
    ("autostart", "", "false: wait for ros2 lifecycle set"),
    ("use_sim_time", "", "true: use the time of /clock"),
    ("log_level", "info", "debug, info, warn or error"),
    ("imagination", "true", "false: without imagination_node, which works only while somebody subscribes"),
)
# launch argument -> parameter, type, nodes that have it
PARAMETERS = (
    ("checkpoint", "checkpoint", str, (*NODES, VIEWER)),
    ("robot", "robot", str, (*NODES, VIEWER)),
    ("command_interface", "command.interface", str, ("command_node",)),
    ("compressed", "compressed", bool, ("encoder_node", VIEWER)),
    ("autostart", "autostart", bool, (*NODES, VIEWER)),
    ("use_sim_time", "use_sim_time", bool, (*NODES, VIEWER)),
)


def generate_launch_description():
    """Return the graph: encoder_node, planner_node, command_node, monitor_node, imagination_node."""
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(n, default_value=value, description=d) for n, value, d in ARGUMENTS),
            *(SetEnvironmentVariable(*variable) for variable in environment.fast_dds_profile().items()),
            OpaqueFunction(function=nodes),
        ]
    )


def nodes(context):
    """Return the nodes. Raises UserError for what would make all of them refuse."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    if not given["checkpoint"]:
        raise UserError("checkpoint is missing: add checkpoint:=FOLDER, the folder that `train` has written.")
    given["checkpoint"] = str(find_checkpoint(given["checkpoint"]).resolve())
    spec = read_spec(given["checkpoint"])
    if given["robot"]:
        robot = read_robot(Path(given["robot"]).expanduser().resolve())
        robot.check(spec, given["checkpoint"])
        take_robot(given, robot)
        check_joints(robot, given["namespace"])
    elif not given["params_file"]:
        given["params_file"] = str(environment.share() / "config" / "robot_arm.yaml")
    files = [Path(given["params_file"]).expanduser().resolve()] if given["params_file"] else []
    namespace = given["namespace"].strip("/")
    if given["imagination"] not in ("true", "false"):
        raise UserError(f"imagination is {given['imagination']!r}: give true or false.")
    started = (*NODES, VIEWER) if given["imagination"] == "true" else NODES
    for file in files:
        if not file.is_file():
            raise UserError(f"there is no params_file {file}: give a copy of config/robot_arm.yaml.")
        arguments.check_file(file, {name: f"/{namespace}/{name}".replace("//", "/") for name in started})
    arguments.check_log_level(given["log_level"])
    given["camera"] = given["camera"] or "camera/image_raw"
    remappings = [
        ("camera/image_raw", given["camera"]),
        ("camera/image_raw/compressed", f"{given['camera']}/compressed"),
        ("joint_states", given["joint_states"] or "joint_states"),
    ]
    if given["command_topic"]:
        remappings += [(topic, given["command_topic"]) for topic in COMMANDS]

    def node(name):
        wins = {
            parameter: ParameterValue(TextSubstitution(text=given[argument]), value_type=kind)
            for argument, parameter, kind, whose in PARAMETERS
            if given[argument] and name in whose
        }
        return Node(
            package="world_model_ros",
            executable=name,
            name=name,
            namespace=given["namespace"],
            parameters=[*map(str, files), wins],
            remappings=remappings,
            ros_arguments=["--log-level", given["log_level"]],
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

    return [node(name) for name in started]


def take_robot(given: dict[str, str], robot: RobotFile) -> None:
    """Put the topics of a robot file where no argument gives them; the nodes read the rest themselves."""
    given["robot"] = robot.path
    camera = next(camera for camera in robot.cameras if camera.name == robot.model_camera)
    topics = {"camera": camera.topic.removesuffix("/compressed"), "command_topic": robot.command.topic}
    topics["joint_states"] = robot.joints.topics[0] if robot.joints else ""
    given |= {name: given[name] or topic for name, topic in topics.items()}


def check_joints(robot: RobotFile, namespace: str) -> None:
    """Raise UserError for a topic that the remapping of joint_states to the first one would take away."""
    ours = f"/{namespace.strip('/')}/joint_states".replace("//", "/")
    for topic in robot.joints.topics[1:] if robot.joints else ():
        if topic in (ours, "joint_states"):
            raise UserError(
                f"{robot.path}: {topic} is not the first of joints.topics, and nothing would be heard on it: "
                "write it first."
            )


def end_if_refused(event, _context):
    """End everything when a node has refused to start: it has printed why."""
    if event.returncode == REFUSED:
        return Shutdown(reason=f"{event.process_name} refused to start, see its error above")
    return None
