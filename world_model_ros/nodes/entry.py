"""Where the executables begin: the signal handlers stand before anything heavy is imported."""

import os
import signal
import sys


def _quit(number, _frame):
    os._exit(130 if number == signal.SIGINT else 0)


signal.signal(signal.SIGINT, _quit)
signal.signal(signal.SIGTERM, _quit)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # the starter may block one


def start(name: str) -> int:
    """Run node ``name`` until it ends, and leave with its exit code; return 2 if it cannot be imported."""
    import importlib

    from world_model_ros.errors import UserError
    from world_model_ros.nodes import arguments, environment

    try:
        environment.check_versions()
        arguments.check(name, sys.argv[1:])
        environment.prepare()
        running = importlib.import_module("world_model_ros.nodes.running")
        module = importlib.import_module(f"world_model_ros.nodes.{name}")
        running.run(module.make_node)
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr, flush=True)
        return 2
