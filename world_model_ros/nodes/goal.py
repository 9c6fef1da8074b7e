"""The ``goal`` verb: sends goal pictures to running nodes, one after another, and follows each of them."""

import argparse

from world_model_ros.data.goals import read_goals
from world_model_ros.errors import UserError
from world_model_ros.nodes import environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``goal``."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="goal",
        help="image files, episode files (.h5), or the word camera for what the camera sees now",
    )
    parser.add_argument("--episode", type=int, default=0, help="episode of an episode file, from 0")
    parser.add_argument(
        "--step", type=int, nargs="+", help="frames of that episode, from 0; the last one where not given"
    )
    parser.add_argument("--loop", action="store_true", help="begin again after the last goal")
    parser.add_argument(
        "--no-wait", action="store_true", help="end when the goal is taken, not when it is reached"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=0.0,
        help="seconds of real time for each goal, then the next one; 0: no limit",
    )
    parser.add_argument("--namespace", default="", help="namespace of the nodes")


def run(arguments: argparse.Namespace) -> int:
    """Send the goals; return 0 where all were reached, 1 where one was not, 130 after Ctrl-C."""
    if arguments.timeout < 0:
        raise UserError("--timeout must not be negative.")
    environment.check_name("--namespace", arguments.namespace)
    goals = read_goals(arguments.sources, arguments.episode, arguments.step)
    if arguments.no_wait and (len(goals) > 1 or arguments.loop):
        raise UserError("--no-wait is for one goal: of several, each is sent when the one before is reached.")
    environment.prepare()
    try:
        from world_model_ros.nodes.goal_client import send_goals
    except ModuleNotFoundError as error:
        raise UserError(f"this needs ROS 2 ({error}): source it, or run `make setup`.") from None
    return send_goals(goals, arguments.namespace, arguments.loop, not arguments.no_wait, arguments.timeout)
