"""Release of the robot to another controller, and the slow start when it is taken back.

A release, like an emergency stop, outlives the process of command_node: each is kept in a small file.
"""

import os
import re
from pathlib import Path

AFTER_RESTART = "emergency stop (from before this process was started)"
LINE = 400  # characters of a reason, at most
SECOND = 1_000_000_000


class Release:
    """Whether the robot is left to another controller: after command/release, or once planning is disabled.

    A reset takes it back, and so does a call that enables planning.
    """

    def __init__(self):
        self.reason = ""  # why it is released; empty while it is not
        self.by_person = False  # rather than by disabled planning
        self._enabled: bool | None = None  # what planner_node reported last
        self._calls: tuple[str, int] | None = None  # (instance, how often planning was enabled)

    def ask(self) -> None:
        """Release: a person asked for it.

        A call of planner/enable that the next health message reports for the first time came before this.
        """
        self.by_person, self._calls = True, None
        self.reason = "command/release was called: call command/reset or planner/enable to take over again"

    def disabled(self) -> None:
        """Release: planning is disabled, and no plan may be played."""
        self.by_person = False
        self.reason = "planning is disabled: call planner/enable to take over again"

    def take_back(self) -> None:
        """Take the robot back."""
        self.reason, self.by_person = "", False

    def planner(self, values: dict, played: bool = False) -> None:
        """Take the values of planner_node's health: ``enabled``, ``enable_calls``, ``instance``.

        ``played`` is whether a plan has moved the robot: then planning was enabled, even if no health message
        reported it.
        """
        enabled, before = values.get("enabled"), played if self._enabled is None else self._enabled
        if enabled not in ("true", "false"):
            return
        self._enabled = enabled == "true"
        calls = values.get("enable_calls", "0")
        now = (values.get("instance", ""), int(calls) if re.fullmatch(r"\d{1,18}", calls) else 0)
        then, self._calls = self._calls or now, now
        asked_for = now[1] > (then[1] if now[0] == then[0] else 0)
        if before and not self._enabled and not self.reason:
            self.disabled()
        elif self.reason and self._enabled and asked_for:  # a restart of planner_node is no such call
            self.take_back()


class Ramp:
    """The share of an action that is sent after a take-over: it grows from 0 to 1 in ``seconds``."""

    def __init__(self, seconds: float = 0.5):
        self.seconds = seconds
        self._pending = False
        self._began: int | None = None

    def arm(self) -> None:
        """Let the next motion begin slowly."""
        self._pending, self._began = True, None

    def share(self, now: int, period: int) -> float:
        """Return the share of the control step (``period`` ns) that begins at ``now``; it moves the robot."""
        if not self._pending:
            return 1.0
        if self._began is None or now < self._began:
            self._began = now
        share = 1.0
        if self.seconds > 0:
            share = min(1.0, (now - self._began + period) / (self.seconds * SECOND))
        self._pending = share < 1.0
        return share


def state_file(node: str, state: str, environment=os.environ) -> Path:
    """Return where a state of a node (its fully qualified name), such as "stopped", is kept."""
    home = environment.get("ROS_HOME") or Path.home() / ".ros"
    domain = environment.get("ROS_DOMAIN_ID") or "0"
    name = node.strip("/").replace("/", ".")
    return Path(home).expanduser() / "world_model_ros" / f"{domain}.{name}.{state}"


class Kept:
    """A state that lasts until it is ended, by this process or a later one; ``path`` None keeps no file."""

    def __init__(self, path: Path | None = None):
        self._path = path
        self._written = False
        try:
            self.there = path is not None and path.exists()
        except OSError:  # it may be set: assume so
            self.there = True
        self.inherited = self.there  # whether an earlier process has begun it, and none since

    def reason(self) -> str:
        """Return why an earlier process has begun it, where it has written that."""
        if self._path is None or not self._path.is_file():
            return ""
        try:
            with self._path.open(errors="replace") as file:
                text = file.read(2 * LINE).split("\n")
        except OSError:
            return ""
        return "".join(letter for letter in text[1][:LINE] if letter.isprintable()) if text[1:] else ""

    def begin(self, reason: str = "") -> str:
        """Set the state; return why it cannot be kept beyond this process, or "".

        The ``reason``, a line, is for the process that inherits the state.
        """
        self.there, self.inherited = True, False
        if self._path is None or self._written:  # a button that is held repeats its message
            return ""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            written = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            with written.open("w") as file:
                file.write(
                    "Kept for a command_node that is started again; command/reset removes this file.\n"
                    f"{reason}\n"
                )
                file.flush()
                os.fsync(file.fileno())
            written.replace(self._path)
            self._written = True
        except OSError as error:
            return f"this state is lost when command_node ends: {self._path}: {error.strerror}"
        return ""

    def end(self) -> str:
        """End the state; return why the file stays, or ""."""
        self.there = self.inherited = self._written = False
        if self._path is None:
            return ""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            return f"this state is back when command_node is started again: {self._path}: {error.strerror}"
        return ""
