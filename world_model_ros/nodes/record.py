"""The ``record`` verb: recorder_node in this terminal, with its keyboard."""

import argparse
import contextlib
import json
import os
import select
import shutil
import sys
from pathlib import Path

from world_model_ros.data.atomic import check_target
from world_model_ros.data.episodes import EpisodeWriter
from world_model_ros.data.ingest import CLOCKS, Ingest, Rules
from world_model_ros.data.lock import WriteLock, parts_of
from world_model_ros.data.robot import read_robot
from world_model_ros.data.words import plural
from world_model_ros.errors import UserError
from world_model_ros.nodes.arguments import quoted
from world_model_ros.nodes.environment import check_name

# key -> command; the commands but quit are the services recorder/<command>, too
KEYS = {
    "r": "start",
    "s": "stop",
    "y": "success",
    "n": "failure",
    "d": "discard",
    "x": "delete_last",
    "k": "keep_last",
    "q": "quit",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--robot", type=Path, help="the robot file; config/robot.yaml is an example")
    parser.add_argument("--out", type=Path, required=True, help="the episode file (.h5) to write or continue")
    parser.add_argument(
        "--keep-last",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="keep as much in memory while nothing is recorded; the key k stores it as an episode",
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="rate",
        help="a row each period of the robot file, or with each frame of the model's camera",
    )
    parser.add_argument(
        "--split-gap",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="an episode ends where a stream is silent for longer",
    )
    parser.add_argument("--namespace", help="of the relative topics in the robot file")
    parser.add_argument("--use-sim-time", action="store_true", help="use the time of /clock")
    parser.add_argument(
        "--finish",
        action="store_true",
        help="record nothing: join the episodes that a killed recorder has left, needs no --robot",
    )


def run(arguments: argparse.Namespace) -> int:
    """Become recorder_node; UserError for what would make it refuse."""
    check_target("--out", arguments.out)
    if arguments.finish:
        return finish(arguments.out)
    if arguments.robot is None:
        raise UserError("--robot is missing: give a copy of config/robot.yaml.")
    if not 0 <= arguments.keep_last <= 3600:
        raise UserError(f"--keep-last {arguments.keep_last:g} is no time: give seconds from 0 to 3600.")
    check_name("--namespace", arguments.namespace)
    Ingest(read_robot(arguments.robot), Rules(arguments.clock, arguments.split_gap))
    values = {
        "robot": quoted(arguments.robot.expanduser().resolve()),
        "out": quoted(arguments.out.expanduser().resolve()),
        "keep_last": arguments.keep_last,
        "clock": arguments.clock,
        "split_gap": arguments.split_gap,
        "keyboard": "true",
        "use_sim_time": str(arguments.use_sim_time).lower(),
    }
    words = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
    if arguments.namespace:
        words += ["-r", f"__ns:=/{arguments.namespace.strip('/')}"]
    command = [sys.executable, "-m", "world_model_ros.nodes", "recorder_node", "--ros-args", *words]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def finish(out: Path) -> int:
    """Join what a killed recorder has left; refused while one is running on it."""
    if not parts_of(out).is_dir():
        raise UserError(f"{parts_of(out)} has no episodes of an interrupted recording: check --out.")
    with WriteLock(out, "`record --finish`"):
        return _join(out)


def _join(out: Path) -> int:
    try:
        attributes = json.loads((parts_of(out) / "attributes.json").read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{parts_of(out)} has no episodes of an interrupted recording: check --out."
        ) from None
    writer = EpisodeWriter(out, attributes)
    writer.finish()
    print(f"{out}: {plural(writer.episodes, 'episode')}")
    return 0


class Keyboard:
    """Single keys of a terminal, or characters of whatever else is the standard input."""

    def __init__(self):
        self._ended, self._before = False, None
        if sys.stdin.isatty():
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin, termios.TCSANOW)

    def commands(self) -> list[str]:
        """Return the commands that were given since the last call."""
        found = []
        while not self._ended and select.select([0], [], [], 0)[0]:
            text = os.read(0, 64).decode(errors="ignore")
            self._ended = not text
            found += [KEYS[key] for key in text.lower() if key in KEYS]
        return found

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._before is not None:
            import termios

            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSANOW, self._before)


class Screen:
    """Sentences, and on a terminal below them lines that are drawn over."""

    def __init__(self):
        self._drawn = 0
        self.live = sys.stdout.isatty()

    def say(self, text: str) -> None:
        """Print a sentence that stays."""
        self._erase()
        print(text, flush=True)

    def draw(self, lines: list[str]) -> None:
        """Draw lines in place of the last ones."""
        if not self.live:
            return
        self._erase()
        width = max(20, shutil.get_terminal_size().columns - 1)
        print("\n".join(line[:width] for line in lines), flush=True)
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            print(f"\x1b[{self._drawn}F\x1b[J", end="")
        self._drawn = 0
