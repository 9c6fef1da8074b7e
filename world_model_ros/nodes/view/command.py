"""The ``view`` verb: the page for a robot, or a simulation, whose nodes run already."""

import argparse
import sys

from world_model_ros.nodes.parameters import PARAMETERS

_DEFAULTS = {parameter.name: parameter.default for parameter in PARAMETERS["view_node"]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``view``."""
    parser.add_argument("--host", default=_DEFAULTS["host"], help="name or address to serve on")
    parser.add_argument("--port", type=int, default=_DEFAULTS["port"], help="port; 0: a free one")
    parser.add_argument("--namespace", default="", help="namespace of the robot's nodes")
    parser.add_argument("--camera", default="", help="topic of the camera, if not camera/image_raw")


def run(arguments: argparse.Namespace) -> int:
    """Run view_node in this process; return 2 if it cannot start."""
    from world_model_ros.nodes.__main__ import start

    words = ["--ros-args", "-p", f"host:='{arguments.host}'", "-p", f"port:={arguments.port}"]
    if arguments.namespace:
        words += ["-r", f"__ns:=/{arguments.namespace.strip('/')}"]
    if arguments.camera:
        for ending in ("", "/compressed"):
            words += ["-r", f"camera/image_raw{ending}:={arguments.camera}{ending}"]
    sys.argv[1:] = words
    return start("view_node")
