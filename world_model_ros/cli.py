"""The command line: one parser for each verb, imported only when the verb is used."""

import argparse
import importlib
import os
import signal
import sys
import traceback

from world_model_ros import __version__
from world_model_ros.errors import UserError

# verb -> (module with add_arguments(parser) and run(arguments) -> exit code, one line of help)
VERBS = {
    "sim": ("world_model_ros.nodes.starter", "start the simulated robot and the nodes, reach goals"),
    "deploy": ("world_model_ros.nodes.deploy", "start a robot's nodes, and again those that die"),
    "call": ("world_model_ros.nodes.call", "call a service of running nodes, such as planner/enable true"),
    "view": ("world_model_ros.nodes.view.command", "serve a page that shows the robot, with buttons"),
    "goal": ("world_model_ros.nodes.goal", "send goal pictures to running nodes, one after another"),
    "collect": ("world_model_ros.evaluation.collect", "let an explorer or the planner fill an episode file"),
    "robot-check": (
        "world_model_ros.nodes.robot_check",
        "compare a running robot with its robot file, stream by stream",
    ),
    "record": ("world_model_ros.nodes.record", "record a robot's episodes, with keys or services"),
    "convert": (
        "world_model_ros.data.convert",
        "make an episode file of bags and of other data sets, or a LeRobot folder of one",
    ),
    "episodes": ("world_model_ros.data.curate.command", "list, show, drop, trim, merge and label episodes"),
    "train": ("world_model_ros.training.train", "train a world model on episode files"),
    "train-heads": (
        "world_model_ros.training.train_heads",
        "add heads to a trained world model, or replace them; measure what else it lacks",
    ),
    "evaluate": ("world_model_ros.evaluation.evaluate", "closed-loop success on held-out problems"),
    "benchmark": (
        "world_model_ros.benchmark.benchmark",
        "measure the time of encoding, prediction and planning",
    ),
    "report": (
        "world_model_ros.evaluation.report.report",
        "write all results of a checkpoint on one HTML page",
    ),
    "import-checkpoint": (
        "world_model_ros.training.import_checkpoint",
        "convert a published LeWM folder to a checkpoint",
    ),
    "inspect": ("world_model_ros.data.inspect", "show what an episode file or a checkpoint contains"),
}


def _overview() -> str:
    rows = "\n".join(f"  {verb:<18} {line}" for verb, (_, line) in VERBS.items())
    return (
        "usage: python -m world_model_ros <verb> [options]\n\n"
        f"verbs:\n{rows}\n\n"
        "Each verb answers --help. --debug, anywhere, shows the traceback of an error."
    )


class _Help(argparse.HelpFormatter):
    """Adds the default of an option where its help does not say it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        nothing = action.default in (None, argparse.SUPPRESS) or isinstance(action.default, bool)
        return action.help + ("" if nothing or "(default" in action.help else " (default: %(default)s)")


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb's options; imports its module."""
    module_name, line = VERBS[verb]
    parser = argparse.ArgumentParser(
        prog=f"python -m world_model_ros {verb}",
        description=line[0].upper() + line[1:] + ".",
        formatter_class=_Help,
    )
    importlib.import_module(module_name).add_arguments(parser)
    return parser


_interrupts: list[bool] = []  # of the present verb


def _on_interrupt(*_):
    _interrupts.append(True)
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return its exit code (2 after a UserError, 130 after Ctrl-C)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        print(f"unknown verb {verb!r}: choose one of {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    _interrupts.clear()
    try:
        module = importlib.import_module(VERBS[verb][0])
        arguments = verb_parser(verb).parse_args(rest)
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            signal.signal(signal.SIGINT, _on_interrupt)
        return module.run(arguments) or 0
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug and (_interrupts or isinstance(error, UserError)):
            traceback.print_exc()
        if _interrupts:  # modules of C turn an interruption of their import into an error of their own
            return _interrupted()
        if not isinstance(error, UserError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return 130
