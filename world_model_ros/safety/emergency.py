"""States that outlive the process of command_node, each in a small file: an emergency stop, a release."""

import os
from pathlib import Path

AFTER_RESTART = "emergency stop (from before this process was started)"


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

    def begin(self) -> str:
        """Set the state; return why it cannot be kept beyond this process, or ""."""
        self.there = True
        if self._path is None or self._written:  # a button that is held repeats its message
            return ""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            written = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            with written.open("w") as file:
                file.write(
                    "Kept for a command_node that is started again; command/reset removes this file.\n"
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
        self.there = self._written = False
        if self._path is None:
            return ""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            return f"this state is back when command_node is started again: {self._path}: {error.strerror}"
        return ""
