"""Other people's data sets as episodes, one file a layout. Each is known by the shape of its files."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from world_model_ros.data.layouts.aloha import Aloha
from world_model_ros.data.layouts.lance import Lance
from world_model_ros.data.layouts.lerobot import LeRobot
from world_model_ros.data.layouts.published import Published
from world_model_ros.data.layouts.robomimic import Robomimic
from world_model_ros.data.layouts.source import Episode, Options, Source, add_arguments, options_of
from world_model_ros.errors import UserError

__all__ = (
    "LAYOUTS",
    "Episode",
    "LayoutSource",
    "Options",
    "Source",
    "add_arguments",
    "attributes",
    "describe",
    "matches",
    "open_source",
    "read",
)

LAYOUTS: tuple[type[Source], ...] = (LeRobot, Robomimic, Aloha, Lance, Published)


def matches(path: Path) -> bool:
    """Return whether ``path`` has one of these layouts."""
    return any(layout.matches(path) for layout in LAYOUTS)


def open_layout(path: Path) -> Source:
    """Return the data set at ``path``. Raises UserError where it has none of the layouts or is damaged."""
    for layout in LAYOUTS:
        if layout.matches(path):
            try:
                return layout(path)
            except UserError:
                raise
            except Exception as error:  # a damaged file may hold anything anywhere
                raise _damaged(path, error) from None
    raise UserError(f"{path} is no data set of {', '.join(layout.name for layout in LAYOUTS)}.")


class LayoutSource:
    """A data set as a Source of data/convert.py."""

    def __init__(self, path: Path, options: Options):
        self.path, self.options = path, options
        self.attributes = attributes(path, options)

    def report(self) -> str:
        """Return what the data set holds."""
        return describe(self.path)

    def episodes(self) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        """Yield each episode as one piece."""
        for one in read(self.path, self.options):
            yield iter([{k: v for k, v in one._asdict().items() if v is not None}])


def open_source(path: Path, arguments: argparse.Namespace) -> LayoutSource:
    """Return a data set as a Source of data/convert.py; UserError where something has to be given."""
    return LayoutSource(path, options_of(arguments))


def describe(path: Path) -> str:
    """Return what is at ``path``, a line per fact: cameras, actions, rate, and which options it needs."""
    return open_layout(path).describe()


def attributes(path: Path, options: Options) -> dict:
    """Return the attributes of the episode file that ``path`` becomes, for EpisodeWriter.

    Raises UserError where neither the data set nor ``options`` say what is needed.
    """
    return open_layout(path).attributes(options)


def read(path: Path, options: Options) -> Iterator[Episode]:
    """Yield the episodes at ``path`` one after another, as EpisodeWriter.append takes them."""
    source = open_layout(path)
    try:
        yield from source.episodes(options)
    except UserError:
        raise
    except Exception as error:  # a damaged file may hold anything anywhere
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read ({type(error).__name__}: {error}): copy it again.")
