"""Says why `make setup` cannot work, before anything is downloaded. Every Python from 3.6 on runs it."""

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig

OLDEST, NEWEST = (3, 10), (3, 13)
COMPILED = (3, 12)  # from here on pybullet is published as source only


def problem(version, machine, has_venv=True, has_compiler=True, has_headers=True):
    """Return a sentence with the remedy, or "" where nothing is in the way.

    ``version`` is (major, minor) of the interpreter, ``machine`` what `uname -sm` says.
    """
    name = ".".join(map(str, version))
    if not OLDEST <= version <= NEWEST:
        return f"Python {name} is not supported: name one of 3.10 to 3.13, as make setup PYTHON=python3.11."
    if machine != "Linux x86_64":
        return (
            f"ROS 2 is published as wheels for Linux x86_64 only, this is {machine}: source a ROS 2 "
            "installation and build with colcon (docs/install.md)."
        )
    if not has_venv:
        return f"Python {name} lacks venv or ensurepip: apt install python{name}-venv."
    missing = [] if has_compiler else ["g++"]
    missing += [] if has_headers else [f"python{name}-dev"]
    if version >= COMPILED and missing:
        return (
            f"pybullet has no wheel for Python {name} and is compiled, which needs {' and '.join(missing)}: "
            f"apt install {' '.join(missing)}, or make setup PYTHON=python3.11."
        )
    return ""


def main():
    """Judge the interpreter that runs this, and the machine."""
    headers = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    sentence = problem(
        sys.version_info[:2],
        platform.system() + " " + platform.machine(),
        has_venv=all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
        has_compiler=bool(shutil.which(os.environ.get("CXX", "g++").split()[0])),
        has_headers=os.path.isfile(headers),
    )
    if sentence:
        sys.exit("error: " + sentence)


if __name__ == "__main__":
    main()
