"""The ``sim`` verb: the simulated robot and its nodes as real ROS 2 processes.

With launch_ros it runs launch/sim.launch.py; without, it starts the same executables with the same
parameters itself. Both stop everything as soon as one ends, or on SIGINT or SIGTERM.
"""

import argparse
import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from world_model_ros.errors import UserError
from world_model_ros.nodes import environment
from world_model_ros.nodes.arguments import quoted
from world_model_ros.nodes.view.access import listen
from world_model_ros.sim.tasks import DEFAULT_TASK, check_world, find_task, task_names

NODES = ("sim_node", "encoder_node", "planner_node", "command_node", "monitor_node")
VIEWER = "imagination_node"
PAGE = "view_node"
OPTIONAL = (VIEWER, PAGE)  # the others go on without them
# name, default, type, meaning: the arguments of sim.launch.py, and the options of ``sim``.
ARGUMENTS = (
    ("goals", "0", int, "how many goals to try before ending; 0 goes on for ever"),
    ("task", DEFAULT_TASK, str, f"{', '.join(task_names())}, or module:Class"),
    ("gui", "false", bool, "open a window"),
    ("seed", "0", int, "of the start and of the goals"),
    ("real_time_factor", "1.0", float, "speed of the clock; 0: as fast as the nodes keep up"),
    ("camera_rate", "0.0", float, "frames a second of the camera; 0: one for each model step"),
    ("camera_jitter", "0.0", float, "seconds by which a frame may be early or late, as its stamp tells"),
    ("imagination", "true", bool, "start imagination_node, which works only while somebody subscribes"),
)
# The same, of the page in the browser.
VIEW_ARGUMENTS = (
    ("view", "false", bool, "serve a page that shows the robot, with buttons"),
    ("view_port", "8090", int, "port of the page; 0: a free one"),
    (
        "view_host",
        "localhost",
        str,
        "where to serve the page; any other than localhost needs the token it prints",
    ),
)
DEFAULTS = {name: default for name, default, _, _ in (*ARGUMENTS, *VIEW_ARGUMENTS)}
OF_SIM_NODE = tuple(name for name, *_ in ARGUMENTS if name != "imagination")  # parameters of it, too
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
POLL = 0.02
_PR_SET_PDEATHSIG = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sim``; launch's spelling goals:=5 is understood too."""
    for name, default, kind, meaning in (*ARGUMENTS, *VIEW_ARGUMENTS):
        option = f"--{name.replace('_', '-')}"
        if kind is bool:
            both = argparse.BooleanOptionalAction  # --gui and --no-gui
            parser.add_argument(option, action=both, default=default == "true", help=meaning)
        else:
            parser.add_argument(option, type=kind, default=kind(default), help=meaning)
    parser.add_argument("--checkpoint", help="checkpoint folder or shipped name; as the task if not given")
    parser.add_argument("words", nargs="*", metavar="name:=value", help="the same, as ros2 launch spells it")


def run(arguments: argparse.Namespace) -> int:
    """Start everything; return sim_node's exit code, or that of the node that ended first."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler:
        # Nothing runs yet that has to end in order, and an exception that a signal raises can get lost in
        # an import.
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    values = launch_values(arguments)
    check(values)
    if importlib.util.find_spec("rclpy") is None:
        raise UserError(
            "this Python has no rclpy: activate the environment of `make setup` (. .venv/bin/activate), or "
            "source ROS 2."
        )
    if text := warning(values):
        print(text, file=sys.stderr)
    environment.prepare(local=True)
    with_launch = importlib.util.find_spec("launch_ros") and _installed()
    signal.signal(signal.SIGINT, handler)
    if with_launch:
        return start_launch(values)
    return start_processes(commands(values))


def launch_values(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the launch arguments, as words, that the command line asks for. Raises UserError."""
    values = {name: str(getattr(arguments, name)) for name in DEFAULTS}
    every = (*ARGUMENTS, *VIEW_ARGUMENTS)
    values |= {name: values[name].lower() for name, _, kind, _ in every if kind is bool}
    values["checkpoint"] = arguments.checkpoint
    for word in arguments.words:
        name, separator, value = word.partition(":=")
        if not separator or name not in values:
            raise UserError(f"{word!r} is not one of {', '.join(f'{n}:=...' for n in values)}.")
        values[name] = value
    values["checkpoint"] = values["checkpoint"] or values["task"]
    return values


def check(values: dict[str, str]) -> None:
    """Raise UserError for what would make a node refuse to start, before anything is started."""
    from world_model_ros.model.config import find_checkpoint, read_spec

    find_task(values["task"])
    for name, _, kind, _ in (*ARGUMENTS, *VIEW_ARGUMENTS):
        if kind is bool and values[name] not in ("true", "false"):
            raise UserError(f"{name} is {values[name]!r}: give true or false.")
        if kind not in (int, float):
            continue
        try:
            number = kind(values[name])
            fits = 0 <= number < 2**31
        except ValueError:
            fits = False
        if not fits:
            raise UserError(f"{name} is {values[name]!r}: give a number that is not negative.")
        values[name] = str(number) if kind is float else values[name]  # ROS distinguishes 1 and 1.0
    folder = find_checkpoint(values["checkpoint"])
    check_world(read_spec(folder), values["task"])
    values["checkpoint"] = str(Path(folder).resolve())
    check_view(values)


def warning(values: dict[str, str]) -> str:
    """Return a warning where the checkpoint was trained on another task, or ""."""
    from world_model_ros.model.config import read_spec
    from world_model_ros.sim.tasks import other_task

    text = other_task(read_spec(values["checkpoint"]), values["task"])
    return f"{text}: expect the robot to be held, since nothing looks as in training." if text else ""


def check_view(values: dict[str, str]) -> None:
    """Raise UserError for what VIEW_ARGUMENTS ask for and cannot be had."""
    unused = [name for name in ("view_host", "view_port") if values[name] != DEFAULTS[name]]
    if unused and values["view"] != "true":
        raise UserError(f"{unused[0]} is of the page, which is not asked for: add --view, or view:=true.")
    if values["view"] == "true":
        check_page(values["view_host"], int(values["view_port"]))


def check_page(host: str, port: int) -> None:
    """Raise UserError where the page cannot be served."""
    if importlib.util.find_spec("aiohttp") is None:
        raise UserError("--view needs aiohttp: pip install aiohttp.")
    if port > 65535:
        raise UserError(f"view_port is {port}: give a number from 0 to 65535.")
    for listening in listen(host, port):
        listening.close()


def commands(values: dict[str, str]) -> dict[str, list[str]]:
    """Return the command line of every node: what sim.launch.py would start."""
    parameters = str(environment.share() / "config" / "sim.yaml")
    nodes = (*NODES, VIEWER) if values["imagination"] == "true" else NODES
    given = {name: ["checkpoint"] for name in nodes} | {"sim_node": OF_SIM_NODE}
    lines = {
        node: [
            *(sys.executable, "-m", "world_model_ros.nodes", node, "--ros-args"),
            *("-r", f"__node:={node}", "--params-file", parameters),
            *(word for name in given[node] for word in ("-p", f"{name}:={_yaml(name, values[name])}")),
        ]
        for node in nodes
    }
    if values.get("view") == "true":
        page = (
            "-p",
            f"host:={_yaml('view_host', values['view_host'])}",
            "-p",
            f"port:={values['view_port']}",
        )
        lines[PAGE] = [
            *(sys.executable, "-m", "world_model_ros.nodes", PAGE, "--ros-args"),
            *("-r", f"__node:={PAGE}", "--params-file", parameters, *page),
        ]
    return lines


def _yaml(name: str, value: str) -> str:
    return quoted(value) if name in ("task", "checkpoint", "view_host") else value


def start_processes(lines: dict[str, list[str]]) -> int:
    """Run the command lines as processes until one ends or a signal comes; leave none behind."""
    signalled = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: signalled.append(received))
    processes = {}
    try:
        for name, line in lines.items():
            if signalled:
                break
            processes[name] = spawn(line)
        first = None
        while not signalled and first is None:
            first = next((n for n, p in processes.items() if p.poll() is not None), None)
            if first in OPTIONAL:
                code = processes.pop(first).returncode
                print(f"{first} ended with exit code {code}: the simulation goes on.", file=sys.stderr)
                first = None
            time.sleep(POLL)
    finally:
        end(processes.values())
    if signalled:
        return 130 if signalled[0] == signal.SIGINT else 0
    return _exit_code(first, processes[first].returncode)


def spawn(line: list[str], **options) -> subprocess.Popen:
    """Run a command line as a process that ends when we do; ``options`` are those of Popen."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def end_with_parent():
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    # A group of its own: the terminal's Ctrl-C reaches it through us, once and in order.
    return subprocess.Popen(
        line, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=end_with_parent, **options
    )


def end(processes) -> None:
    """End processes: SIGTERM, and SIGKILL for who takes longer than the grace."""
    alive = [p for p in processes if p.poll() is None]
    for process in alive:
        process.terminate()
    end = time.monotonic() + GRACE
    while any(p.poll() is None for p in alive) and time.monotonic() < end:
        time.sleep(POLL)
    for process in alive:
        if process.poll() is None:
            process.kill()
            process.wait()


def _installed() -> bool:
    """Return whether launch_ros would find our executables."""
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return any((Path(p) / "lib" / environment.NAME / "sim_node").is_file() for p in prefixes if p)


def start_launch(values: dict[str, str]) -> int:
    """Run launch/sim.launch.py in this process."""
    from launch.actions import IncludeLaunchDescription, RegisterEventHandler
    from launch.event_handlers import OnProcessExit
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    from launch import LaunchDescription, LaunchService

    # On SIGTERM launch leaves its processes behind, on SIGINT it ends them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_interrupt_on_sigterm, daemon=True).start()
    ended = []  # of their own accord

    def note(event, context):
        name = event.process_name.rpartition("-")[0]
        if not context.is_shutdown and name not in OPTIONAL:
            ended.append((name, event.returncode))

    source = PythonLaunchDescriptionSource(str(environment.share() / "launch" / "sim.launch.py"))
    service = LaunchService()
    service.include_launch_description(
        LaunchDescription(
            [
                RegisterEventHandler(OnProcessExit(on_exit=note)),
                IncludeLaunchDescription(source, launch_arguments=values.items()),
            ]
        )
    )
    code = service.run()
    return _exit_code(*ended[0]) if ended else code


def _interrupt_on_sigterm() -> None:
    signal.sigwait({signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGINT)


def _exit_code(first: str, code: int) -> int:
    """Return the exit code of everything: that of the node that ended first."""
    if first != "sim_node":
        print(f"{first} ended with exit code {code}: everything was stopped.", file=sys.stderr)
        return code if code > 0 else 1
    return code if code >= 0 else 128 - code
