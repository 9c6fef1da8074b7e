"""Other people's data sets as episodes, one file a layout. Each is known by the shape of its files."""

import argparse
import contextlib
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

__all__ = ("LAYOUTS", "DataSet", "Episode", "Options", "add_arguments", "open_source")

LAYOUTS: tuple[type[Source], ...] = (LeRobot, Robomimic, Aloha, Lance, Published)


def open_source(path: Path, arguments: argparse.Namespace) -> "DataSet":
    """Return a data set as a Source of data/convert.py; UserError where it cannot be read."""
    return DataSet(path, options_of(arguments))


class DataSet:
    """A data set of one of the layouts, as a Source of data/convert.py.

    Raises UserError where ``path`` has none of the layouts or is damaged.
    """

    def __init__(self, path: Path, options: Options | None = None):
        self.path, self.options = path, options or Options()
        layout = next((layout for layout in LAYOUTS if layout.matches(path)), None)
        if layout is None:
            raise UserError(f"{path} is no data set of {', '.join(layout.name for layout in LAYOUTS)}.")
        with self._readable():
            self._layout = layout(path)

    @property
    def attributes(self) -> dict:
        """The attributes of the episode file that it becomes, for EpisodeWriter.

        Raises UserError where neither the data set nor the options say what is needed.
        """
        return self._layout.attributes(self.options)

    def report(self) -> str:
        """Return what it holds, a line per fact: cameras, actions, rate, and which options it needs."""
        return self._layout.describe()

    def read(self) -> Iterator[Episode]:
        """Yield the episodes one after another, as EpisodeWriter.append takes them."""
        with self._readable():
            yield from self._layout.episodes(self.options)

    def episodes(self) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        """Yield each episode as one piece."""
        for one in self.read():
            yield iter([{k: v for k, v in one._asdict().items() if v is not None}])

    @contextlib.contextmanager
    def _readable(self):
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # a damaged file may hold anything anywhere
            raise UserError(
                f"{self.path} cannot be read ({type(error).__name__}: {error}): copy it again."
            ) from None
