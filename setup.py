import re
import sys
from pathlib import Path

from setuptools import find_packages, setup

NAME = "world_model_ros"
NODES = ("sim_node", "encoder_node", "planner_node", "command_node")
ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / NAME / "__init__.py").read_text()).group(1)

# A wheel puts console scripts into bin/, where ros2 run does not look.
STUB = """#!/bin/sh
python="$(dirname "$(readlink -f "$0")")/../../bin/python3"
[ -x "$python" ] || python=python3
exec "$python" -m {module} "$@"
"""


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """Return data_files that put ``folder`` under share/world_model_ros, as it is."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*")):
        if path.is_file() and not any(part.startswith((".", "__")) for part in path.relative_to(ROOT).parts):
            relative = path.relative_to(ROOT)
            found.setdefault(f"share/{NAME}/{relative.parent}", []).append(str(relative))
    return list(found.items())


def stubs() -> list[tuple[str, list[str]]]:
    """Write the executables that ros2 run starts; return them as data_files."""
    modules = {node: f"{NAME}.nodes {node}" for node in NODES} | {"wm": NAME}
    folder = Path("build") / "stubs"
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in modules.items():
        (folder / name).write_text(STUB.format(module=module))
        (folder / name).chmod(0o755)
    return [(f"lib/{NAME}", [str(folder / name) for name in modules])]


data_files = [
    ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
    (f"share/{NAME}", ["package.xml"]),
    *tree("launch"),
    *tree("config"),
    *tree("models"),
]
if "bdist_wheel" in sys.argv:
    data_files += stubs()

setup(
    name=NAME,
    version=VERSION,
    description="Latent world models for ROS 2: learn from the robot's own camera, plan in imagination",
    license="Apache-2.0",
    maintainer="world_model_ros developers",
    maintainer_email="world-model-ros@users.noreply.github.com",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
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
        "pybullet",
    ],
    extras_require={
        "test": ["pytest==8.3.5", "pytest-timeout", "hypothesis", "ruff", "PyYAML"],
        # ROS 2 itself for machines without it; a sourced ROS 2 brings its own.
        "ros": [
            "ros-rclpy[fastrtps]==9.1.2",
            "ros-diagnostic-msgs",
            "ros-geometry-msgs",
            "ros-rosgraph-msgs",
            "ros-sensor-msgs",
            "ros-std-msgs",
            "ros-std-srvs",
            "ros-trajectory-msgs",
        ],
        "build": ["setuptools<80", "colcon-core", "colcon-bash", "colcon-ros", "empy==3.3.4"],
    },
    entry_points={
        "console_scripts": [
            *(f"{node} = {NAME}.nodes.entry:{node}" for node in NODES),
            f"wm = {NAME}.cli:main",
        ]
    },
)
