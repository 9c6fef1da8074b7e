"""The surroundings a node needs, made by code so that nobody has to know them. No ROS in here."""

import os
import sys
from pathlib import Path

from world_model_ros.errors import UserError

NAME = "world_model_ros"
SOURCE = Path(__file__).resolve().parents[2]
# Where Fast DDS looks for a profile; Fast DDS 2, up to Jazzy, reads the second, newer ones warn of it.
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
OLDER = ("humble", "iron", "jazzy")


def share() -> Path:
    """Return the folder with launch/, config/ and models/: the source tree or the installed share folder."""
    if (SOURCE / "package.xml").is_file() and (SOURCE / "launch").is_dir():
        return SOURCE
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in (*Path(__file__).resolve().parents, *prefixes, Path(sys.prefix)):
        if (prefix / "share" / NAME / "launch").is_dir():
            return prefix / "share" / NAME
    raise UserError(f"the launch and config files of {NAME} are not installed: install it again.")


def fast_dds_profile() -> dict[str, str]:
    """Return the variable that makes Fast DDS read config/fastdds.xml; empty where the user has set one."""
    if any(os.environ.get(variable) for variable in PROFILES):
        return {}
    return {PROFILES[_fast_dds_2()]: str(share() / "config" / "fastdds.xml")}


def _fast_dds_2() -> bool:
    """Return whether ROS 2 brings Fast DDS 2; wheels set no ROS_DISTRO, but its library had another name."""
    if os.environ.get("ROS_DISTRO"):
        return os.environ["ROS_DISTRO"] in OLDER
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    return any((Path(p) / "lib" / "libfastrtps.so").exists() for p in prefixes)


def prepare(local: bool = False) -> None:
    """Complete os.environ before rclpy is imported; what the user has set stays.

    A virtual environment with ROS 2 wheels is an ament prefix, but nothing says so. The Fast DDS profile
    makes room for large images and announces quickly. ``local`` is for who starts nodes: they find this
    package, and the graph stays on this machine.
    """
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    for prefix in (SOURCE / "install" / NAME, Path(sys.prefix)):
        if (prefix / "share" / "ament_index").is_dir() and str(prefix) not in prefixes:
            prefixes.append(str(prefix))
    os.environ["AMENT_PREFIX_PATH"] = os.pathsep.join(prefixes)
    os.environ.update(fast_dds_profile())
    if local:
        paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
        if str(SOURCE) not in paths:
            os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *paths])
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
