"""Which layout of another project a path has, by its first bytes and names: nothing is read in full."""

import json
from pathlib import Path

import h5py

INFO = Path("meta", "info.json")  # of a LeRobot folder
_MAGIC = {
    b"\x89MCAP0\r\n": "an mcap recording",
    b"SQLite format 3\0": "a rosbag2 recording (sqlite3)",
    b"#ROSBAG V2.0": "a ROS 1 bag",
    b"PAR1": "a parquet file",
}
_HDF5 = b"\x89HDF\r\n\x1a\n"
PUBLISHED = ("pixels", "action", "ep_len", "ep_offset")  # the datasets of an episode file


def layout_of(path: str | Path) -> str | None:
    """Return a path's layout in words ("a LeRobot v3.0 folder"), None where it is none that is known here.

    None too for an episode file, also for a published one without attributes.
    """
    path = Path(path)
    try:
        return _folder_layout(path) if path.is_dir() else _file_layout(path)
    except OSError:
        return None


def hint(path: str | Path) -> str | None:
    """Return the sentence for somebody who gave a path of another layout in place of an episode file."""
    path = Path(path)
    layout = layout_of(path)
    if layout is None:
        return None
    if layout == "a parquet file":  # one of many of a LeRobot folder
        folder = next((p for p in path.absolute().parents if (p / INFO).is_file()), None)
        if folder is None:
            return f"{path} is a parquet file: give the LeRobot folder it belongs to to `convert`."
        path, layout = folder, f"a parquet file of the LeRobot folder {folder}"
        return f"{layout} is no episode file: run `{_command(path)}` first."
    return f"{path} is {layout}, not an episode file: run `{_command(path)}` first."


def _command(path: Path) -> str:
    return f"python -m world_model_ros convert {path} --out episodes.h5"


def _folder_layout(path: Path) -> str | None:
    if (path / INFO).is_file():
        return f"a LeRobot {lerobot_version(path)} folder"
    if lance_table(path) is not None:
        return "a Lance folder"
    names = [p.name for p in path.iterdir()]
    if any(name.endswith((".mcap", ".db3")) for name in names):
        return "a rosbag2 folder"
    if aloha_files(path):
        return "a folder of ALOHA episodes"
    return None


def _file_layout(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(16)
    for magic, layout in _MAGIC.items():
        if head.startswith(magic):
            return layout
    if head.startswith(_HDF5):
        layout = hdf5_layout(path)
        return f"{'an' if layout == 'ALOHA' else 'a'} {layout} file" if layout else None
    return None


def hdf5_layout(path: Path) -> str | None:
    """Return "robomimic", "ALOHA" or None for an HDF5 file."""
    try:
        with h5py.File(path, "r") as file:
            if all(name in file for name in PUBLISHED):
                return None
            data = file.get("data")
            if isinstance(data, h5py.Group) and any(_is_demo(data, name) for name in data):
                return "robomimic"
            observations = file.get("observations")
            if isinstance(observations, h5py.Group) and "action" in file:
                return "ALOHA"
    except OSError:
        pass
    return None


def _is_demo(data: h5py.Group, name: str) -> bool:
    return isinstance(data[name], h5py.Group) and "actions" in data[name]


def lerobot_version(folder: Path) -> str:
    """Return what meta/info.json calls its version, such as "v3.0"; "" where it does not."""
    try:
        return str(json.loads((folder / INFO).read_text()).get("codebase_version", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def lance_table(path: Path) -> Path | None:
    """Return the Lance table at ``path``, or the only one in it; None where there is none."""
    if not path.is_dir():
        return None
    if (path / "_versions").is_dir():
        return path
    tables = [p for p in sorted(path.glob("*.lance")) if not p.stem.endswith(("_episodes", "_videos"))]
    return tables[0] if len(tables) == 1 else None


def aloha_files(path: Path) -> list[Path]:
    """Return the episodes of an ALOHA file or folder in the order of their numbers; [] where it is none."""
    if path.is_file():
        return [path] if hdf5_layout(path) == "ALOHA" else []
    files = sorted((*path.glob("*.hdf5"), *path.glob("*.h5")), key=by_number)
    return files if files and hdf5_layout(files[0]) == "ALOHA" else []


def by_number(path: Path | str) -> tuple:
    """Sort key: ``demo_2`` comes before ``demo_10``."""
    name = Path(path).stem
    digits = name[len(name.rstrip("0123456789")) :]
    return (name[: len(name) - len(digits)], int(digits or 0), name)
