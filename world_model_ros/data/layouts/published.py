"""The published layout itself, such as stable-worldmodel's HDF5 files, whose attributes are missing."""

from collections.abc import Iterator
from pathlib import Path

import h5py

from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.layouts.source import Episode, Source
from world_model_ros.data.recognise import PUBLISHED


class Published(Source):
    """An episode file, with or without attributes. Its rows are taken as they are."""

    name = "episode file"

    def __init__(self, path: Path):
        super().__init__(path)
        with EpisodeFile(path) as file:
            self.cameras = {"pixels": file.frame_shape[:2]}
            self.lengths = file.lengths.tolist()
            self.action_width = file.actions(0).shape[1]
            self.stated = {k: v for k, v in file.attributes.items() if k not in file.assumed}

    @staticmethod
    def matches(path: Path) -> bool:
        """Return whether ``path`` is an episode file."""
        try:
            with h5py.File(path) as file:
                return all(name in file for name in PUBLISHED)
        except OSError:
            return False

    def _episodes(self, _camera: str) -> Iterator[Episode]:
        with EpisodeFile(self.path) as file:
            for index in range(len(file)):
                state, proprio = (file.recorded(name, index) for name in ("state", "proprio"))
                yield Episode(file.pixels(index), file.actions(index), state, proprio)
