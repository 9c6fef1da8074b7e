"""The ``deploy`` verb: a robot's encoder, planner, command and monitor nodes, without ``ros2 launch``.

launch/robot.launch.py has its arguments, nodes, remappings and parameters from here.
"""

import argparse
import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from world_model_ros.data.robot import RobotFile, read_robot
from world_model_ros.errors import UserError
from world_model_ros.model.config import find_checkpoint, read_spec
from world_model_ros.nodes import environment, starter
from world_model_ros.nodes.arguments import check_file, check_log_level, quoted

NODES = ("encoder_node", "planner_node", "command_node", "monitor_node")
VIEWER = starter.VIEWER  # optional: the others go on without it
PAGE = starter.PAGE  # the same
RESPAWN = 2.0  # seconds until a node that died is started again
REFUSED = 2  # exit code of a node that has printed what is wrong: a restart would not help
COMMANDS = ("command/twist", "command/velocities", "command/joint_trajectory")
# name, default, type, meaning: the arguments of robot.launch.py, and the options of ``deploy``. What is left
# empty stays as in params_file.
ARGUMENTS = (
    ("checkpoint", "", str, "checkpoint folder, or the name of a shipped one; required"),
    (
        "robot",
        "",
        str,
        "robot file, a copy of config/robot.yaml: it gives topics, command interface and limits",
    ),
    (
        "params_file",
        "",
        str,
        "parameters of the nodes that differ from the robot file; without one, a copy of "
        "config/robot_arm.yaml or config/robot_base.yaml for your robot (config/robot_arm.yaml if empty)",
    ),
    ("namespace", "", str, "of all nodes and topics; one for each of several robots"),
    (
        "camera",
        "",
        str,
        "topic of the camera, of 10 Hz or more (encoder_node's max_rate drops frames above it); compressed, "
        "the topic below it is read; if empty that of the robot file, or camera/image_raw",
    ),
    ("joint_states", "", str, "topic of the joint states; if empty that of the robot file, or joint_states"),
    (
        "command_topic",
        "",
        str,
        "topic that the robot's controller listens to; if empty that of the robot file, or "
        "command/<interface>",
    ),
    ("command_interface", "", str, "twist, twist_unstamped, velocities or joint_trajectory"),
    ("compressed", "", bool, "read <camera>/compressed"),
    ("autostart", "", bool, "configure and activate the nodes; if false they wait for ros2 lifecycle set"),
    ("use_sim_time", "", bool, "use the time of /clock"),
    ("log_level", "info", str, "debug, info, warn or error"),
    ("imagination", "true", bool, "start imagination_node, which works only while somebody subscribes"),
)
# argument -> parameter, type, nodes that have it
PARAMETERS = (
    ("checkpoint", "checkpoint", str, (*NODES, VIEWER)),
    ("robot", "robot", str, (*NODES, VIEWER)),
    ("command_interface", "command.interface", str, ("command_node",)),
    ("compressed", "compressed", bool, ("encoder_node", VIEWER)),
    ("autostart", "autostart", bool, (*NODES, VIEWER)),
    ("use_sim_time", "use_sim_time", bool, (*NODES, VIEWER)),
)


class Deployment(NamedTuple):
    """What is started: nodes, parameter files, remappings of all nodes, and the arguments as completed."""

    nodes: tuple[str, ...]
    files: tuple[str, ...]
    remappings: tuple[tuple[str, str], ...]
    given: dict[str, str]

    def parameters(self, node: str) -> dict[str, tuple[str, type]]:
        """Return the parameters of a node that win over the files, each as text and with its type."""
        return {
            parameter: (self.given[argument], kind)
            for argument, parameter, kind, whose in PARAMETERS
            if self.given[argument] and node in whose
        }

    def command_line(self, node: str) -> list[str]:
        """Return what starts a node."""
        words = ["--log-level", self.given["log_level"], "-r", f"__node:={node}"]
        if namespace := self.given["namespace"].strip("/"):
            words += ["-r", f"__ns:=/{namespace}"]
        for ours, theirs in self.remappings:
            words += ["-r", f"{ours}:={theirs}"]
        for file in self.files:
            words += ["--params-file", file]
        for parameter, (value, kind) in self.parameters(node).items():
            words += ["-p", f"{parameter}:={quoted(value) if kind is str else value}"]
        return [sys.executable, "-m", "world_model_ros.nodes", node, "--ros-args", *words]

    def page(self, host: str, port: int) -> list[str]:
        """Return what starts the page in the browser."""
        line = self._replace(files=()).command_line(PAGE)
        return [*line, "-p", f"host:={quoted(host)}", "-p", f"port:={port}"]


def deployment(given: dict[str, str]) -> Deployment:
    """Return what to start for the values of ARGUMENTS. Raises UserError where every node would refuse."""
    given = dict(given)
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
        check_file(file, {name: f"/{namespace}/{name}".replace("//", "/") for name in started})
    check_log_level(given["log_level"])
    given["camera"] = given["camera"] or "camera/image_raw"
    remappings = [
        ("camera/image_raw", given["camera"]),
        ("camera/image_raw/compressed", f"{given['camera']}/compressed"),
        ("joint_states", given["joint_states"] or "joint_states"),
    ]
    if given["command_topic"]:
        remappings += [(topic, given["command_topic"]) for topic in COMMANDS]
    return Deployment(started, tuple(map(str, files)), tuple(remappings), given)


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``deploy``."""
    for name, default, kind, meaning in (*ARGUMENTS, *starter.VIEW_ARGUMENTS):
        option = f"--{name.replace('_', '-')}"
        if kind is bool:
            value = {"true": True, "false": False}.get(default)
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=value, help=meaning)
        elif name == "checkpoint":
            parser.add_argument(option, required=True, help=meaning.removesuffix("; required"))
        else:
            value = kind(default) if default else None
            parser.add_argument(option, type=kind, default=value, help=meaning)


def run(arguments: argparse.Namespace) -> int:
    """Start the nodes, and again those that die, until a signal comes; return the exit code."""
    words = {None: "", True: "true", False: "false"}
    given = {name: getattr(arguments, name) for name, *_ in ARGUMENTS}
    given = {name: words.get(value, value) for name, value in given.items()}
    for name in ("namespace", "camera", "joint_states", "command_topic"):
        environment.check_name(f"--{name.replace('_', '-')}", given[name])
    starter.check_view({name: str(getattr(arguments, name)).lower() for name, *_ in starter.VIEW_ARGUMENTS})
    deployed = deployment(given)
    environment.check_versions()
    environment.prepare()
    if importlib.util.find_spec("rclpy") is None:
        raise UserError("deploy needs ROS 2: source its setup file, or run `make setup`.")
    lines = {name: deployed.command_line(name) for name in deployed.nodes}
    if arguments.view:
        lines[PAGE] = deployed.page(arguments.view_host, arguments.view_port)
    return supervise(lines)


def supervise(lines: dict[str, list[str]]) -> int:
    """Run command lines as processes, and again those that end, until a signal comes; leave none behind.

    A node that has refused to start ends everything, unless the others go on without it.
    """
    signalled = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: signalled.append(received))
    processes: dict[str, subprocess.Popen] = {}
    due = dict.fromkeys(lines, 0.0)  # node -> when to start it, in seconds of steady time
    try:
        while not signalled:
            now = time.monotonic()
            for name in [name for name, when in due.items() if when <= now]:
                del due[name]
                processes[name] = starter.spawn(lines[name])
            for name, process in list(processes.items()):
                code = process.poll()
                if code is None:
                    continue
                del processes[name]
                if code != REFUSED:
                    print(f"{name} ended with exit code {code}: it is started again.", file=sys.stderr)
                    due[name] = now + RESPAWN
                elif name in NODES:
                    print(
                        f"{name} refused to start, see its error above: everything was stopped.",
                        file=sys.stderr,
                    )
                    return REFUSED
            time.sleep(starter.POLL)
    finally:
        starter.end(processes.values())
    return 130 if signalled[0] == signal.SIGINT else 0
