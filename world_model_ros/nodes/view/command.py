"""The ``view`` verb: the page for a robot, or a simulation, whose nodes run already."""

import argparse
import sys

from world_model_ros.errors import UserError
from world_model_ros.nodes.arguments import quoted
from world_model_ros.nodes.environment import check_name
from world_model_ros.nodes.parameters import PARAMETERS

_PARAMETERS = {parameter.name: parameter for parameter in PARAMETERS["view_node"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``view``."""
    host, port = (_PARAMETERS[name].default for name in ("host", "port"))
    parser.add_argument("--host", default=host, help="name or address to serve on")
    parser.add_argument("--port", type=int, default=port, help="port; 0: a free one")
    parser.add_argument("--namespace", help="namespace of the robot's nodes")
    parser.add_argument("--camera", help="topic of the camera, if not camera/image_raw")


def run(arguments: argparse.Namespace) -> int:
    """Run view_node in this process; return 2 if it cannot start. Raises UserError."""
    from world_model_ros.nodes.__main__ import start

    if problem := _PARAMETERS["port"].problem(arguments.port):
        raise UserError(f"{problem}.")
    for option in ("namespace", "camera"):
        check_name(f"--{option}", getattr(arguments, option))
    words = ["--ros-args", "-p", f"host:={quoted(arguments.host)}", "-p", f"port:={arguments.port}"]
    if arguments.namespace:
        words += ["-r", f"__ns:=/{arguments.namespace.strip('/')}"]
    if arguments.camera:
        for ending in ("", "/compressed"):
            words += ["-r", f"camera/image_raw{ending}:={arguments.camera}{ending}"]
    sys.argv[1:] = words
    return start("view_node")
