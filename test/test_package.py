"""The package as ROS and pip see it, and who may import what."""

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAME = "world_model_ros"
# rosdep keys and ROS packages this package may depend on; every one is in rosdistro.
KEYS = {
    "ament_index_python",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "nav_msgs",
    "python3-aiohttp",
    "python3-h5py",
    "python3-hypothesis",
    "python3-jinja2",
    "python3-matplotlib",
    "python3-numpy",
    "python3-opencv",
    "python3-pybullet-pip",
    "python3-pytest",
    "python3-pytest-timeout",
    "python3-pytest-xdist",
    "python3-sklearn",
    "python3-torch",
    "python3-tqdm",
    "python3-yaml",
    "rcl_interfaces",
    "rclpy",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "trajectory_msgs",
    "visualization_msgs",
}
# folder -> the folders it may import; "top" is the modules beside them. No import runs back up.
IMPORTS = {
    "top": set(),
    "model": {"top"},
    "safety": {"top", "model"},
    "camera": {"top", "safety"},
    "data": {"top", "model", "safety", "camera"},
    "monitoring": {"top", "model", "data"},
    "planning": {"top", "model", "data", "safety"},
    "sim": {"top", "model", "data"},
    "training": {"top", "model", "data", "planning", "monitoring"},
    "evaluation": {"top", "model", "data", "planning", "monitoring", "sim", "training"},
    "nodes": {
        *("top", "model", "data", "safety", "camera", "monitoring"),
        *("planning", "sim", "training", "evaluation"),
    },
    "benchmark": {
        *("top", "model", "data", "safety", "camera", "monitoring"),
        *("planning", "sim", "training", "evaluation", "nodes"),
    },
}
ROS = (
    *("rclpy", "sensor_msgs", "std_msgs", "std_srvs", "geometry_msgs", "trajectory_msgs", "diagnostic_msgs"),
    *("nav_msgs", "visualization_msgs"),
)


@pytest.fixture(scope="module")
def package():
    return ET.parse(ROOT / "package.xml").getroot()


def test_package_xml_is_format_3_and_complete(package):
    assert package.tag == "package"
    assert package.get("format") == "3"
    order = ["name", "version", "description", "maintainer", "license"]
    assert [child.tag for child in package][: len(order)] == order
    assert re.fullmatch(r"\S+@\S+", package.find("maintainer").get("email"))
    assert package.findtext("license") == "Apache-2.0"
    assert (ROOT / package.find("license").get("file")).read_text().lstrip().startswith("Apache License")
    assert package.findtext("export/build_type") == "ament_python"


def test_name_and_version_are_everywhere_the_same(package):
    import world_model_ros

    assert package.findtext("name") == NAME
    assert package.findtext("version") == world_model_ros.__version__
    assert (ROOT / "resource" / NAME).is_file()
    assert re.search(
        rf"^{re.escape(world_model_ros.__version__)} ", (ROOT / "CHANGELOG.rst").read_text(), re.M
    )


def test_dependencies_are_sorted_and_known_to_rosdep(package):
    for tag in ("exec_depend", "test_depend"):
        keys = [child.text for child in package.findall(tag)]
        assert keys == sorted(set(keys))
        assert set(keys) <= KEYS
    tags = {child.tag for child in package} - {
        "name",
        "version",
        "description",
        "maintainer",
        "license",
        "export",
    }
    assert tags == {"exec_depend", "test_depend"}


def test_every_message_package_that_is_imported_is_declared(package):
    source = "".join(path.read_text() for path in (ROOT / NAME / "nodes").glob("*.py"))
    imported = set(re.findall(r"^from (\w+_msgs|std_srvs)\.", source, re.M)) - {"builtin_interfaces"}
    declared = {child.text for child in package.findall("exec_depend")}
    # rcl_interfaces and builtin_interfaces come with rclpy
    assert imported - {"rcl_interfaces"} <= declared


def test_every_requirement_is_pinned():
    words = subprocess.run(
        [
            sys.executable,
            "-c",
            "import setuptools, distutils.core as d; s = d.run_setup('setup.py', stop_after='init');"
            "print(*s.install_requires, *sum(s.extras_require.values(), []))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    pins = "\n".join((ROOT / name).read_text() for name in ("constraints.txt", "constraints-jazzy.txt"))
    pinned = {re.split(r"[=<\[]", line)[0].lower() for line in pins.split("\n")}
    assert {re.split(r"[=<\[]", word)[0].lower() for word in words} <= pinned


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_importing_the_package_imports_nothing_heavy():
    done = run_python(
        "import pkgutil, importlib, sys, world_model_ros as w\n"
        "for m in pkgutil.iter_modules(w.__path__):\n"
        "    if m.name != '__main__': importlib.import_module(f'world_model_ros.{m.name}')\n"
        "heavy = {'torch', 'rclpy', 'pybullet', 'h5py', 'cv2', 'numpy', 'sklearn', 'jinja2'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


def test_only_nodes_need_ros():
    done = run_python(
        "import pkgutil, importlib, importlib.util, sys, world_model_ros as w\n"
        "needs = {'gym_env': 'gymnasium', 'fused_rollout': 'triton'}\n"
        "optional = [m for m, other in needs.items() if not importlib.util.find_spec(other)]\n"
        f"for name in {ROS!r}: sys.modules[name] = None\n"
        "for m in pkgutil.walk_packages(w.__path__, 'world_model_ros.'):\n"
        "    node = m.name.startswith('world_model_ros.nodes.')\n"
        "    if m.name.endswith(('__main__', *optional)): continue\n"
        "    if node and m.name.rsplit('.')[-1] not in ('environment', 'starter'): continue\n"
        "    importlib.import_module(m.name)\n"
    )
    assert done.returncode == 0, done.stderr


def folder(parts):
    """Return the folder of world_model_ros that a path or a dotted name begins with, "top" for none."""
    return parts[0] if (ROOT / NAME / parts[0]).is_dir() else "top"


def imported_folders(path):
    """Return (line, folder) of every import of this package in a file, those in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *parts = name.split(".")
            if first == NAME and parts:
                yield node.lineno, folder(parts)


def test_the_allowed_imports_have_an_order():
    below = set()
    for name, allowed in IMPORTS.items():
        assert allowed <= below, f"{name} may import {sorted(allowed - below)}, which come after it"
        below.add(name)


def test_no_import_runs_back_up():
    package = ROOT / NAME
    folders = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(IMPORTS) - {"top"}
    back = []
    for path in sorted(package.rglob("*.py")):
        here = folder(path.relative_to(package).parts)
        for line, target in imported_folders(path):
            if target not in {here, *IMPORTS[here]}:
                back.append(f"{path.relative_to(ROOT)}:{line} imports {target}/")
    assert not back, "\n".join(back)
