"""The environment variables and versions that a node needs. Imports no ROS."""

import importlib.metadata
import os
import re
import sys
from pathlib import Path

from world_model_ros.errors import UserError

NAME = "world_model_ros"
SOURCE = Path(__file__).resolve().parents[2]
# Where Fast DDS looks for a profile; Fast DDS 2, up to Jazzy, reads the second, newer ones warn of it.
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
# package, oldest version, what to do about an older one
OLDEST = (
    ("rclpy", (7, 1), "install ROS 2 Jazzy or newer"),
    ("torch", (2, 1), "pip install --upgrade torch"),
)
OLDER = ("humble", "iron", "jazzy")
# Their messages are small, and a robot waits for them: a killed one's successor must hear everybody.
WITHOUT_SHARED_MEMORY = ("command_node", "planner_node", "monitor_node")
_NAME = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


def check_name(option: str, name: str | None) -> None:
    """Raise UserError where the value of an option, if there is one, is no name of ROS."""
    if name and name != "/" and not _NAME.fullmatch(name):
        raise UserError(f"{option} is {name!r}: give a name of ROS, such as /left or /front/image_raw.")


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
    return {profile_variable(): str(share() / "config" / "fastdds.xml")}


def profile_variable() -> str:
    """Return the name of the variable that this ROS 2's Fast DDS reads.

    Wheels set no ROS_DISTRO; the library of Fast DDS 2 had another name.
    """
    if os.environ.get("ROS_DISTRO"):
        return PROFILES[os.environ["ROS_DISTRO"] in OLDER]
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    return PROFILES[any((Path(p) / "lib" / "libfastrtps.so").exists() for p in prefixes)]


def check_versions(version=importlib.metadata.version) -> None:
    """Raise UserError where ROS 2 or torch is too old; ``version(name)`` is that of an installed package.

    A package that is not installed, or has no version, is not checked.
    """
    for name, needed, what in OLDEST:
        try:
            installed = version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        numbers = tuple(int(n) for n in re.findall(r"\d+", installed.partition("+")[0])[:2])
        if numbers and numbers < needed:
            raise UserError(
                f"{name} {installed} is too old, {'.'.join(map(str, needed))} or newer is needed: {what}."
            )


def prepare(local: bool = False, node: str = "") -> None:
    """Complete os.environ before rclpy is imported; what the user has set stays.

    A virtual environment with ROS 2 wheels is an ament prefix that no variable names. The Fast DDS profile
    has shared memory for large images, unless ``node`` needs none, and a new node announces itself quickly.
    ``local`` is for starting the nodes of a simulation: they find this package, and the graph stays on this
    machine, without shared memory, since the pictures are small.
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
    if local or node in WITHOUT_SHARED_MEMORY:
        _leave_shared_memory()


def _leave_shared_memory() -> None:
    """Have nodes whose settings of Fast DDS are this package's receive by UDP alone."""
    variable, profile = profile_variable(), share() / "config" / "fastdds.xml"
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "SUBNET"
    local = reach == "LOCALHOST"  # where rmw_fastrtps adds shared memory; the profile says the rest of it
    udp = profile.with_name("fastdds_udp_localhost.xml" if local else "fastdds_udp.xml")
    if (
        not _same(os.environ.get(variable), profile)
        or not udp.is_file()
        or not (os.environ.get("RMW_IMPLEMENTATION") or "rmw_fastrtps").startswith("rmw_fastrtps")
        or os.environ.get("ROS_LOCALHOST_ONLY") == "1"
        or reach not in ("SUBNET", "LOCALHOST", "SYSTEM_DEFAULT")
        or (local and os.environ.get("ROS_STATIC_PEERS"))  # used with LOCALHOST and SUBNET only
    ):
        return
    os.environ[variable] = str(udp)
    if local:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"


def _same(path: str | None, profile: Path) -> bool:
    """Return whether a file is the profile, or a copy: of an installed one, or through a link."""
    try:
        return bool(path) and Path(path).read_bytes() == profile.read_bytes()
    except OSError:
        return False
