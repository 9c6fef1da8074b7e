import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

NAME = "world_model_ros"
ROOT = Path(__file__).resolve().parent
NODES = sorted(path.stem for path in (ROOT / NAME / "nodes").glob("*_node.py"))
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / NAME / "__init__.py").read_text()).group(1)

COLCON = not {"install", "develop"}.isdisjoint(sys.argv)  # else a wheel, or only its metadata

# What ros2 run and ros2 launch start. Without site (-S) Python is up within milliseconds, and until the
# node's own handlers stand, a Ctrl-C ends it without a word.
NODE = """#!/bin/sh
exec {python} -S -c 'import _signal, sys
_signal.signal(2, 0)
sys.path[:] = filter(None, sys.path)
import site
site.main()
from world_model_ros.nodes.__main__ import start
raise SystemExit(start("{name}"))' "$@"
"""
COMMAND_LINE = """#!/bin/sh
exec {python} -m world_model_ros "$@"
"""
# A wheel does not know yet which interpreter it will lie beside: the one two folders up.
PYTHON = f'"{sys.executable}"' if COLCON else '"$(dirname "$(readlink -f "$0")")/../../bin/python3"'


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """Return data_files that put ``folder`` under share/world_model_ros, as it is."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*")):
        if path.is_file() and not any(part.startswith((".", "__")) for part in path.relative_to(ROOT).parts):
            relative = path.relative_to(ROOT)
            found.setdefault(f"share/{NAME}/{relative.parent}", []).append(str(relative))
    return list(found.items())


def executables() -> list[str]:
    """Write the executables of lib/world_model_ros; return their paths."""
    folder = Path("build") / "executables"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*NODES, "wm"):
        text = (COMMAND_LINE if name == "wm" else NODE).format(python=PYTHON, name=name)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return [str(folder / name) for name in (*NODES, "wm")]


data_files = [
    ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
    (f"share/{NAME}", ["package.xml"]),
    *tree("launch"),
    *tree("config"),
    *tree("models"),
]
if not COLCON:  # a wheel's scripts go to bin/, where ros2 run does not look
    data_files.append((f"lib/{NAME}", executables()))

setup(
    name=NAME,
    version=VERSION,
    description="Latent world models for ROS 2: learn from the robot's own camera, plan in imagination",
    license="Apache-2.0",
    maintainer="world_model_ros developers",
    maintainer_email="world-model-ros@users.noreply.github.com",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={f"{NAME}.evaluation.report": ["*.j2"], f"{NAME}.nodes.view": ["*.html", "*.css", "*.js"]},
    data_files=data_files,
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=[
        "numpy",
        "torch",
        "opencv-python-headless",
        "h5py",
        "safetensors",
        "tqdm",
        "PyYAML",
        "rosbags",
        "pybullet",
        "matplotlib",
        "Jinja2",
        "scikit-learn",
    ],
    extras_require={
        "test": [
            *("pytest==8.3.5", "pytest-timeout", "pytest-xdist"),
            *("gymnasium", "hypothesis", "ruff"),
            *("pyarrow", "hdf5plugin"),
        ],
        "view": ["aiohttp"],  # the page in the browser: nodes/view_node.py
        "browser": ["playwright"],  # for make test-browser, with the system's Chromium
        "gym": ["gymnasium"],  # every task as a Gymnasium environment: sim/gym_env.py
        # Other people's data sets: LeRobot (pyarrow, av for AV1 videos), Lance, Blosc in HDF5.
        "data": ["pyarrow", "av", "pylance", "hdf5plugin"],
        "tensorboard": ["tensorboard"],  # curves of a training while it runs
        # ROS 2 itself for machines without it; a sourced ROS 2 brings its own.
        "ros": [
            "ros-rclpy[fastrtps]==9.1.2",
            "ros-diagnostic-msgs",
            "ros-geometry-msgs",
            "ros-nav-msgs",
            "ros-rosgraph-msgs",
            "ros-sensor-msgs",
            "ros-std-msgs",
            "ros-std-srvs",
            "ros-trajectory-msgs",
            "ros-visualization-msgs",
        ],
        # The same of ROS 2 Jazzy, for make test-jazzy.
        "ros-jazzy": [
            "ros-jazzy-rclpy",
            "ros-jazzy-rmw-fastrtps-cpp",
            "ros-jazzy-rmw-dds-common",
            "ros-jazzy-diagnostic-msgs",
            "ros-jazzy-geometry-msgs",
            "ros-jazzy-nav-msgs",
            "ros-jazzy-rosgraph-msgs",
            "ros-jazzy-sensor-msgs",
            "ros-jazzy-std-msgs",
            "ros-jazzy-std-srvs",
            "ros-jazzy-trajectory-msgs",
            "ros-jazzy-visualization-msgs",
        ],
        "build": ["setuptools<80", "colcon-core", "colcon-bash", "colcon-ros", "empy==3.3.4"],
    },
    scripts=executables() if COLCON else [],
    entry_points={} if COLCON else {"console_scripts": [f"wm = {NAME}.cli:main"]},
)
