"""The provenance of results: command line and source commit."""

import argparse
import functools
import shlex
import subprocess
from collections.abc import Callable, Container
from pathlib import Path


def command_line(
    verb: str,
    arguments: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    leave_out: Container[str] = (),
) -> str:
    """Return the command that repeats a verb.

    Options at their defaults are left out, and those in ``leave_out``, which change no result.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["python", "-m", "world_model_ros", verb]
    for name, value in vars(arguments).items():
        if name in leave_out or value == parser.get_default(name):
            continue
        words.append(f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}")
        words += [] if value is True else map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


@functools.cache
def source_commit() -> str:
    """Return the commit of the source tree this runs from, "-dirty" where it was changed; "" outside one.

    The answer of the first call in a process is kept: long work calls this before it begins, because the
    tree may change meanwhile.
    """
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    options = {"capture_output": True, "text": True, "timeout": 10, "check": True}
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("-dirty" if changed else "")
