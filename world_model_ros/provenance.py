"""Where results come from."""

import subprocess
from pathlib import Path


def source_commit() -> str:
    """Return the commit of the source tree this runs from, "-dirty" where it was changed; "" outside one."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    options = {"capture_output": True, "text": True, "timeout": 10, "check": True}
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("-dirty" if changed else "")
