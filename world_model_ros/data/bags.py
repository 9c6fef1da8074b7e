"""rosbag2 recordings (MCAP or SQLite, with or without metadata.yaml) as episodes; needs no ROS."""

import argparse
import contextlib
import difflib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from world_model_ros.data.ingest import CLOCKS, Ingest, Row, Rules
from world_model_ros.data.mcap import UnclosedMcap, is_unclosed
from world_model_ros.data.records import make_record, types_of
from world_model_ros.data.robot import TIMES, RobotFile, Stream, parse_policy, read_robot
from world_model_ros.errors import UserError

FILES = (".mcap", ".db3")
# Distributions that wrote bags without type definitions, the newest first.
DISTROS = ("humble", "galactic", "foxy", "eloquent", "dashing", "iron", "jazzy", "kilted")
_PADDING = 128  # bytes behind a message at most
_TOGETHER = 32  # rows that are handed on at once


def matches(path: Path) -> bool:
    """Return whether ``path`` is a bag's folder or one of its files."""
    return bool(_files(path)) or (path / "metadata.yaml").is_file()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options for bags."""
    group = parser.add_argument_group("rosbag2")
    group.add_argument("--robot", type=Path, help="the robot file; config/robot.yaml is an example")
    group.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="[STREAM=]POLICY",
        help="hold, as-of:SECONDS or drop, of a camera, joints or actions, or of all; may be repeated "
        "(default: the robot file's)",
    )
    group.add_argument(
        "--clock",
        choices=CLOCKS,
        default="rate",
        help="a row each period of the robot file, or with each frame of the model's camera",
    )
    group.add_argument("--time", choices=TIMES, help="stamps of all streams (default: the robot file's)")
    group.add_argument(
        "--split-gap",
        type=float,
        default=Rules.split_gap,
        metavar="SECONDS",
        help="an episode ends where a stream is silent for longer",
    )
    group.add_argument(
        "--distro", choices=DISTROS, default="humble", help="of a bag without type definitions, up to Humble"
    )


def open_source(path: Path, arguments: argparse.Namespace) -> "BagSource":
    """Return a bag as a Source of data/convert.py; UserError where it, or an option, cannot be used."""
    if arguments.robot is None:
        raise UserError(
            f"--robot is missing: name the robot file, which says what the topics of {path} mean."
        )
    if not 0 < arguments.split_gap < float("inf"):
        raise UserError(f"--split-gap {arguments.split_gap:g} is no time: give a number of seconds above 0.")
    policies = {}
    for text in arguments.policy:
        name, _, policy = text.rpartition("=")
        try:
            policies[name] = parse_policy(policy)
        except ValueError as error:
            raise UserError(f"--policy {text}: {error}.") from None
    robot = read_robot(arguments.robot).override(arguments.time, policies)
    return BagSource(path, robot, Rules(arguments.clock, arguments.split_gap), arguments.distro)


class BagSource:
    """The episodes of one bag."""

    def __init__(self, path: Path, robot: RobotFile, rules: Rules, distro: str = "humble"):
        self.path, self.robot, self.rules, self.distro = path, robot, rules, distro
        self.attributes = Ingest(robot, rules).attributes

    def report(self) -> str:
        """Read the bag once; return what came of each stream. UserError where no episode does."""
        ingest = Ingest(self.robot, self.rules, time_option=True)
        for _ in self._rows(ingest, f"check {self.path.name}"):
            pass
        report = ingest.report()
        if problem := ingest.problem():
            raise UserError(f"{self.path}: {problem}.")
        if not ingest.lengths:
            raise UserError(
                f"{self.path} has no two steps in a row for which every stream has a message: choose other "
                f"policies, or record again.\n{report}"
            )
        for file in filter(is_unclosed, _files(self.path)):
            report += f"\n{file.name} was never closed: it is read up to its last complete record"
        return report

    def episodes(self) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        """Read the bag; yield each episode as an iterator of columns."""
        numbers = itertools.count()
        current = 0

        def episode(row: Row) -> int:
            nonlocal current
            current = next(numbers) if row.first else current
            return current

        rows = self._rows(Ingest(self.robot, self.rules, time_option=True), f"convert {self.path.name}")
        for _, group in itertools.groupby(rows, episode):
            yield _columns(group)

    def _rows(self, ingest: Ingest, title: str) -> Iterator[Row]:
        with contextlib.closing(_opened(self.path, self.distro)) as reader:
            wanted = _wanted(reader, self.robot, self.path)
            connections = [c for c in reader.connections if (c.topic, c.msgtype) in wanted]
            total = sum(connection.msgcount for connection in connections)
            bar = tqdm(desc=title, total=total, unit="message", leave=False, disable=None)
            for connection, received, data in _messages(reader, connections, self.path):
                bar.update()
                kind = connection.msgtype.rsplit("/", 1)[-1]
                streams = wanted[connection.topic, connection.msgtype]
                try:
                    message = deserialized(reader.deserialize, data, connection.msgtype)
                except Exception as error:  # damaged data may hold anything anywhere
                    for stream in streams:
                        ingest.reject(stream.name, f"its bytes are no {connection.msgtype} ({error})")
                    continue
                for stream in streams:
                    try:
                        record = make_record(self.robot, stream, kind, message, received)
                    except ValueError as error:
                        ingest.reject(stream.name, str(error))
                    else:
                        yield from ingest.add(record)
            bar.close()
        yield from ingest.finish()


def deserialized(deserialize, data: bytes, type_name: str):
    """Return ``deserialize(data, type_name)``, also where more bytes follow; raises what that raises.

    Fast DDS leaves room, of any content, behind a message with empty lists, such as joint states without
    efforts; rosbags takes three bytes at most. Of a message it takes no less than the whole.
    """
    try:
        return deserialize(data, type_name)
    except Exception as error:  # whatever a reader raises
        for padding in range(4, min(_PADDING, len(data)), 4):
            with contextlib.suppress(type(error)):
                return deserialize(data[:-padding], type_name)
        raise


def _columns(rows: Iterator[Row]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the columns of some rows at a time."""
    while together := [row.columns for row in itertools.islice(rows, _TOGETHER)]:
        yield {name: np.stack([columns[name] for columns in together]) for name in together[0]}


def _files(path: Path) -> list[Path]:
    """Return the storage files at ``path``, those of a folder in the order of their numbers."""
    if path.is_file():
        return [path] if path.suffix in FILES else []
    if not path.is_dir():
        return []
    found = [file for file in path.iterdir() if file.suffix in FILES and file.is_file()]
    return sorted(
        found, key=lambda file: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", file.name)]
    )


def _opened(path: Path, distro: str):
    """Return an open reader; UserError where the bag cannot be read."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.rosbag2.storage_mcap import McapReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise UserError(f"bags need the library rosbags ({error}): pip install rosbags.") from None
    for file in _files(path):
        log = file.with_name(f"{file.name}-wal")
        if file.suffix == ".db3" and log.is_file() and log.stat().st_size:
            raise UserError(
                f"{file} was never closed, its newest messages are in {log.name}: join them with "
                f"`sqlite3 {file} 'PRAGMA wal_checkpoint(TRUNCATE)'`."
            )
    typestore = get_typestore(Stores(f"ros2_{distro}"))
    paths: list[Path] = [UnclosedMcap(file) if is_unclosed(file) else file for file in _files(path)]
    if (path / "metadata.yaml").is_file() and not any(map(is_unclosed, _files(path))):
        paths = [path]
    try:
        reader = AnyReader(paths, default_typestore=typestore)
        reader.open()
        for storage in (s for r in reader.readers for s in getattr(r.storage, "storages", [r.storage])):
            # Without an index rosbags refuses messages that are not in the order of their times, as newer
            # recorders write them. The ingest puts them in order.
            if isinstance(storage, McapReader) and not storage.chunks:
                storage.messages = storage.messages_scan
    except Exception as error:  # a damaged file may hold anything anywhere
        remedy = "copy it again, or repair its metadata with `ros2 bag reindex`"
        raise UserError(f"{path} is not a rosbag2 recording that can be read ({error}): {remedy}.") from None
    return reader


def _messages(reader, connections: list, path: Path):
    """Yield (connection, received, data); UserError where the file ends in the middle or is damaged."""
    messages = reader.messages(connections)
    while True:
        try:
            item = next(messages, None)
        except Exception as error:  # a damaged file may hold anything anywhere
            raise UserError(
                f"{path} is damaged ({error}): repair it with `mcap recover`, or copy it again."
            ) from None
        if item is None:
            return
        yield item


def _wanted(reader, robot: RobotFile, path: Path) -> dict[tuple[str, str], list[Stream]]:
    """Return the streams by topic and type. Raises UserError for a stream without a topic in the bag."""
    types: dict[str, str] = {}
    for connection in sorted(reader.connections, key=lambda c: c.msgcount):
        types[connection.topic] = connection.msgtype
    if not types:
        closed = " (it was never closed)" if any(map(is_unclosed, _files(path))) else ""
        raise UserError(f"{path} holds no complete message{closed}: record again.")
    filled = {connection.topic for connection in reader.connections if connection.msgcount}
    wanted: dict[tuple[str, str], list[Stream]] = {}
    for stream in robot.streams:
        fitting = types_of(robot, stream)
        named = _named(stream, types)
        topic = next((t for t in named if types[t].rsplit("/", 1)[-1] in fitting and t in filled), None)
        if topic is None and named:
            topic = next((t for t in named if types[t].rsplit("/", 1)[-1] in fitting), None)
            what = f"holds no message on {topic}" if topic else f"has {types[named[0]]} on {named[0]}"
            remedy = "record it" if topic else f"{' or '.join(fitting)} is needed"
            raise UserError(f"{path} {what}, which the robot file names for {stream.name}: {remedy}.")
        if topic is None:
            near = difflib.get_close_matches(stream.topic, types, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            there = ", ".join(sorted(types)[:20]) or "none"
            raise UserError(
                f"{path} has no topic {stream.topic}{hint}, which the robot file names for {stream.name}; "
                f"its topics are {there}: correct the robot file."
            )
        wanted.setdefault((topic, types[topic]), []).append(stream)
    return wanted


def _named(stream: Stream, types: dict[str, str]) -> list[str]:
    """Return the topics that a stream's may be: as named, with /compressed, and in any namespace."""
    endings = [stream.topic, *([f"{stream.topic}/compressed"] if stream.role == "camera" else [])]
    named = [topic for ending in endings if (topic := f"/{ending.lstrip('/')}") in types]
    if stream.topic.startswith("/") or named:
        return named
    found = [topic for ending in endings for topic in types if topic.endswith(f"/{ending}")]
    return found if len(found) == 1 else []
