"""stable-worldmodel's Lance tables: a row for each frame, pictures as JPEG, no rate and no names."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from world_model_ros.data.layouts.arrow import by_episode, numbers, require
from world_model_ros.data.layouts.source import Episode, Source, decode_image, episode
from world_model_ros.data.recognise import lance_table
from world_model_ros.errors import UserError

_BATCH = 128  # rows


class Lance(Source):
    """A Lance table."""

    name = "Lance"

    def __init__(self, path: Path):
        super().__init__(path)
        lance = require("lance", "pylance", "a Lance folder")
        self._table = lance.dataset(str(lance_table(self.path)))
        types = {field.name: str(field.type) for field in self._table.schema}
        missing = [name for name in ("episode_idx", "action") if name not in types]
        if missing:
            raise UserError(
                f"{path} has no column {' and '.join(missing)}: it is none of stable-worldmodel's tables."
            )
        pictures = [name for name, kind in types.items() if kind in ("binary", "large_binary")]
        episodes = self._table.to_table(columns=["episode_idx"]).column("episode_idx").to_numpy()
        starts = np.flatnonzero(np.diff(episodes, prepend=episodes[:1] - 1))
        if len(np.unique(episodes)) != len(starts):
            raise UserError(f"{path}: its rows are not ordered by episode: write the table again in order.")
        self.lengths = np.diff(starts, append=len(episodes)).tolist()
        first = self._table.take([0], columns=["action", *pictures])
        self.action_width = numbers(first, "action").shape[1]
        self.cameras = {
            name: decode_image(first.column(name)[0].as_py(), str(path)).shape[:2] for name in pictures
        }
        self.stated = {}
        self._known = [name for name in ("state", "proprio") if name in types]

    @staticmethod
    def matches(path: Path) -> bool:
        """Return whether ``path`` is a Lance table or a folder with one."""
        return lance_table(Path(path)) is not None

    def _episodes(self, camera: str) -> Iterator[Episode]:
        columns = ["episode_idx", "action", camera, *self._known]
        batches = self._table.to_batches(columns=columns, batch_size=_BATCH)
        for index, table in by_episode(batches, "episode_idx"):
            where = f"{self.path}, episode {index}"
            pixels = [decode_image(data, where) for data in table.column(camera).to_pylist()]
            state, proprio = (numbers(table, name) for name in ("state", "proprio"))
            yield episode(np.stack(pixels), numbers(table, "action"), state, proprio, where)
