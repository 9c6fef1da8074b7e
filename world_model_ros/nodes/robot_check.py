"""The ``robot-check`` verb: whether a running robot is the one that a robot file describes."""

import argparse
import importlib.util
from pathlib import Path

from world_model_ros.data.robot import read_robot
from world_model_ros.errors import UserError
from world_model_ros.nodes import environment

FAULTS = 1  # exit code where something is not as the robot file says


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--robot", type=Path, required=True, help="robot file: a copy of config/robot.yaml for your robot"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to listen")
    parser.add_argument("--namespace", help="of the relative topics in the robot file")
    parser.add_argument("--use-sim-time", action="store_true", help="compare stamps with /clock")


def run(arguments: argparse.Namespace) -> int:
    """Listen, and print what was found stream by stream; 1 where there is a fault. Raises UserError."""
    if not 0.5 <= arguments.seconds <= 3600:
        raise UserError(f"--seconds is {arguments.seconds:g}: give a number from 0.5 to 3600.")
    environment.check_name("--namespace", arguments.namespace)
    robot = read_robot(arguments.robot)
    environment.check_versions()
    environment.prepare()
    if importlib.util.find_spec("rclpy") is None:
        raise UserError("robot-check needs ROS 2: source its setup file, or run `make setup`.")
    from world_model_ros.nodes.listening import listen

    print(f"{robot.name} ({robot.path}): listening for {arguments.seconds:g} s", flush=True)
    findings = listen(robot, arguments.seconds, arguments.use_sim_time, arguments.namespace or "")
    for finding in findings:
        print("\n".join(finding.lines()))
    faults = sum(len(finding.problems) for finding in findings)
    if faults:
        print(
            f"{faults} fault{'s' if faults > 1 else ''}: mend them as the lines with -> say, and check again"
        )
        return FAULTS
    print("all streams are as the robot file says")
    return 0
