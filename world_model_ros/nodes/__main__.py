"""``python -m world_model_ros.nodes <node> [--ros-args ...]``: what the executables run, too.

The signal handlers are set before anything heavy is imported.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

NODES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("*_node.py")))


def _quit(*_):
    os._exit(0)  # as a node that runs: launch calls every other code a process that has died


signal.signal(signal.SIGINT, _quit)
signal.signal(signal.SIGTERM, _quit)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # the starter may block one


def start(name: str) -> int:
    """Run node ``name`` until it ends, and exit with its code; return 2 if it cannot start."""
    from world_model_ros.errors import UserError
    from world_model_ros.nodes import arguments, environment

    before_ros = sys.argv[1:]
    if "--ros-args" in before_ros:
        before_ros = before_ros[: before_ros.index("--ros-args")]
    if {"-h", "--help"} & set(before_ros):
        print(arguments.usage(name))
        return 0
    try:
        environment.check_versions()
        arguments.check(name, sys.argv[1:])
        environment.prepare(node=name)
        running = importlib.import_module("world_model_ros.nodes.running")
        module = importlib.import_module(f"world_model_ros.nodes.{name}")
        running.run(module.make_node)
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr, flush=True)
        return 2


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in NODES:
        print(f"give the name of a node: {', '.join(NODES)}", file=sys.stderr)
        raise SystemExit(2)
    raise SystemExit(start(sys.argv.pop(1)))
