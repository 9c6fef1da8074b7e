"""The emergency stop: latched, and kept in a small file, so that it outlives the process."""

import os
from pathlib import Path

AFTER_RESTART = "emergency stop (from before this process was started)"


def stop_file(node: str, environment=os.environ) -> Path:
    """Return where the stop of a node, by its fully qualified name, is kept."""
    home = environment.get("ROS_HOME") or Path.home() / ".ros"
    domain = environment.get("ROS_DOMAIN_ID") or "0"
    name = node.strip("/").replace("/", ".")
    return Path(home).expanduser() / "world_model_ros" / f"{domain}.{name}.stopped"


class EmergencyStop:
    """Pressed until it is reset, by whatever process; ``path`` None keeps no file."""

    def __init__(self, path: Path | None = None):
        self._path = path
        self.reason = ""  # why the robot is stopped; empty while it is not
        try:
            if path is not None and path.exists():
                self.reason = AFTER_RESTART
        except OSError:  # nobody can say that it was not pressed
            self.reason = AFTER_RESTART

    def press(self) -> str:
        """Stop; return why it cannot be kept beyond this process, or ""."""
        self.reason = "emergency stop"
        if self._path is None:
            return ""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            written = self._path.with_suffix(f".{os.getpid()}")
            with written.open("w") as file:
                file.write("An emergency stop: command/reset removes this file.\n")
                file.flush()
                os.fsync(file.fileno())
            written.replace(self._path)
        except OSError as error:
            return f"the emergency stop is forgotten when command_node ends: {self._path}: {error.strerror}"
        return ""

    def reset(self) -> str:
        """Let go; return why the file stays, or ""."""
        self.reason = ""
        if self._path is None:
            return ""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            return f"the emergency stop comes back when command_node is started again: {self._path}: " + str(
                error.strerror
            )
        return ""
