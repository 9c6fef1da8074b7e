"""The ``convert`` verb: recordings in other formats become one episode file.

A reader is a module with ``add_arguments(parser)``, which declares its options, and
``open_source(path, arguments)``, which returns a Source. READERS lists them all.
"""

import argparse
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from world_model_ros.data import bags, layouts, unstated
from world_model_ros.data.atomic import check_target
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.data.export import export_lerobot
from world_model_ros.data.lock import WriteLock
from world_model_ros.data.words import plural
from world_model_ros.errors import UserError


class Source(Protocol):
    """A recording that can be read as often as needed, each time the same."""

    attributes: dict  # for the episode file, as EpisodeWriter takes them

    def report(self) -> str:
        """Return what it holds and what becomes of it, for people; UserError where no episode does."""

    def episodes(self) -> Iterable[Iterator[dict[str, np.ndarray]]]:
        """Yield the episodes in order, each as an iterator of columns (n, ...) of some rows."""


# name -> (whether a path is of this format, the module that reads it); the first that matches is taken
READERS = {
    "rosbag2": (bags.matches, "world_model_ros.data.bags"),
    **{layout.name: (layout.matches, "world_model_ros.data.layouts") for layout in layouts.LAYOUTS},
}


def detect(path: Path) -> str:
    """Return the name in READERS of the format of ``path``; UserError where there is none."""
    if not path.exists():
        raise UserError(f"there is no {path}: check the path.")
    for name, (matches, _) in READERS.items():
        if matches(path):
            return name
    raise UserError(f"{path} has none of the formats that can be converted: {', '.join(READERS)}.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options, and those of each reader."""
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="the recordings, in order")
    parser.add_argument("--out", type=Path, help="the episode file (.h5) to write")
    parser.add_argument("--dry-run", action="store_true", help="print the report alone, write nothing")
    parser.add_argument(
        "--to",
        choices=("episodes", "lerobot"),
        default="episodes",
        help="what to write: an episode file, or a LeRobot v3.0 folder of one episode file",
    )
    for module in dict.fromkeys(module for _, module in READERS.values()):
        importlib.import_module(module).add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the report, then write the episodes; UserError for what cannot be converted."""
    if arguments.to == "lerobot":
        return _export(arguments)
    if not arguments.dry_run:
        _check_out(arguments.out)
    sources = []
    for path in arguments.paths:
        module = importlib.import_module(READERS[detect(path)][1])
        sources.append(module.open_source(path, arguments))
    attributes = _common_attributes(arguments.paths, sources)
    for path, source in zip(arguments.paths, sources, strict=True):
        print(f"{path}:\n{source.report()}", flush=True)
    if arguments.dry_run:
        print("nothing is written (--dry-run)")
        return 0
    with WriteLock(arguments.out, "`convert`"):
        return _write(arguments.out, attributes, sources)


def _write(out: Path, attributes: dict, sources: list[Source]) -> int:
    writer = EpisodeWriter(out, attributes)
    episodes = (rows for source in sources for rows in source.episodes())
    for index, rows in enumerate(episodes):
        if index not in writer.done:  # else it was written before an interruption
            with writer.open(index) as add:
                for columns in rows:
                    add(columns)
    writer.finish()
    print(f"{out}: {plural(writer.episodes, 'episode')}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    if len(arguments.paths) > 1 or arguments.out is None or arguments.dry_run:
        raise UserError("--to lerobot takes one episode file and --out, the folder to write.")
    with EpisodeFile(arguments.paths[0], unstated.given(arguments)) as file:
        export_lerobot(file, arguments.out)
        print(f"{arguments.out}: {plural(len(file), 'episode')} as a LeRobot v3.0 folder")
    return 0


def _check_out(out: Path | None) -> None:
    if out is None:
        raise UserError("--out is missing: name the episode file to write, or add --dry-run for the report.")
    if out.is_file():
        raise UserError(f"--out {out} is there already: choose another name, or delete it.")
    check_target("--out", out)


def _common_attributes(paths: list[Path], sources: list[Source]) -> dict:
    """Return the attributes of the episode file, with where it comes from; UserError where they differ."""
    first = sources[0].attributes
    for path, source in zip(paths, sources, strict=True):
        keys = sorted(
            key for key in {*first, *source.attributes} if first.get(key) != source.attributes.get(key)
        )
        if keys:
            values = "; ".join(f"{key} {first.get(key)!r} and {source.attributes.get(key)!r}" for key in keys)
            raise UserError(f"{paths[0]} and {path} differ ({values}): convert them into files of their own.")
    return {**first, "source": ", ".join(path.resolve().name for path in paths)}
