"""LeRobot folders, versions 2.0, 2.1 and 3.0: parquet rows, pictures in them or in MP4 files.

``meta/info.json`` states the frame rate, the features and their names. Version 3 keeps many episodes in one
file, version 2 one episode in each.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from world_model_ros.data.layouts.arrow import by_episode, numbers, require
from world_model_ros.data.layouts.source import Episode, Source, decode_image, episode
from world_model_ros.data.layouts.video import Video
from world_model_ros.data.recognise import INFO
from world_model_ros.errors import UserError

OURS = Path("meta", "world_model_ros.json")  # the attributes of an episode file that was exported
ACTION, STATE, PROPRIO = "action", "observation.environment_state", "observation.state"
_BATCH = 128  # rows
_PLAIN = re.compile(r"([^{}]|\{\w+(:0?\dd)?\})*")  # a format of names and numbers of up to nine digits


class LeRobot(Source):
    """A LeRobot folder."""

    name = "LeRobot"

    def __init__(self, path: Path):
        super().__init__(path)
        self._parquet = require("pyarrow.parquet", "pyarrow", "a LeRobot folder")
        self._info = info = json.loads((self.path / INFO).read_text())
        version = str(info.get("codebase_version"))
        if not version.startswith(("v2.", "v3.")):
            raise UserError(
                f"{path} is a LeRobot {version} folder: convert it with LeRobot to v2.1 or v3.0 first."
            )
        self.name = f"LeRobot {version}"
        self._features = features = info["features"]
        if ACTION not in features:
            raise UserError(f"{path} has no feature {ACTION!r}: a world model learns from actions.")
        self.cameras = {
            key: _height_and_width(feature) for key, feature in features.items() if _is_camera(feature)
        }
        self.action_width = int(np.prod(features[ACTION]["shape"]))
        self.stated = self._what_is_stated()
        self._notes = self._episode_notes()
        self.lengths = [int(note["length"]) for note in self._notes]

    @staticmethod
    def matches(path: Path) -> bool:
        """Return whether ``path`` is a LeRobot folder."""
        return (Path(path) / INFO).is_file()

    def _what_is_stated(self) -> dict:
        exported = self.path / OURS
        if exported.is_file():
            return json.loads(exported.read_text())
        fps = self._info.get("fps")
        stated = {"period": 1 / fps} if fps else {}
        for column, key in (("action_names", ACTION), ("state_names", STATE), ("proprio_names", PROPRIO)):
            names = _names(self._features.get(key, {}))
            stated |= {column: names} if names else {}
        return stated

    def _episode_notes(self) -> list[dict]:
        """Return what meta/ notes on each episode, in order."""
        lines = self.path / "meta" / "episodes.jsonl"
        if lines.is_file():
            notes = [json.loads(line) for line in lines.read_text().splitlines() if line.strip()]
        else:
            notes = []
            for path in sorted((self.path / "meta" / "episodes").glob("*/*.parquet")):
                names = self._parquet.read_schema(path).names
                columns = [name for name in names if not name.startswith("stats/")]
                notes += self._parquet.read_table(path, columns=columns).to_pylist()
        return sorted(notes, key=lambda note: note["episode_index"])

    def _episodes(self, camera: str) -> Iterator[Episode]:
        filmed = self._features[camera]["dtype"] == "video"
        present = [key for key in (ACTION, STATE, PROPRIO) if key in self._features]
        columns = ["episode_index", "timestamp", *present, *([] if filmed else [camera])]
        notes = iter(self._notes)
        video = None
        for index, table in by_episode(self._batches(columns), "episode_index"):
            note = next(notes, None)
            if note is None or note["episode_index"] != index or note["length"] != table.num_rows:
                raise self._incomplete(index)
            where = f"{self.path}, episode {index}"
            if filmed:
                path, start = self._video_of(camera, note)
                if video is None or video.path != path:
                    video = Video(path)
                times = start + numbers(table, "timestamp")[:, 0]
                pixels = video.frames(np.rint(times * self._info["fps"]).astype(int))
            else:
                stored = table.column(camera).to_pylist()
                pixels = np.stack([decode_image(self._image(image), where) for image in stored])
            action, state, proprio = (numbers(table, key) for key in (ACTION, STATE, PROPRIO))
            yield episode(pixels, action, state, proprio, where)
        if (note := next(notes, None)) is not None:
            raise self._incomplete(note["episode_index"])

    def _incomplete(self, index: int) -> UserError:
        return UserError(
            f"{self.path}: data/ and meta/ disagree from episode {index} on: copy the whole folder."
        )

    def _batches(self, columns: list[str]) -> Iterator:
        for path in sorted((self.path / "data").glob("*/*.parquet")):
            with self._parquet.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=_BATCH, columns=columns)

    def _image(self, stored) -> bytes:
        """Return a picture's file content: in the row, or beside it where the row has its path."""
        if isinstance(stored, dict):
            if stored.get("bytes"):
                return stored["bytes"]
            return self._inside(str(stored.get("path"))).read_bytes()
        return stored

    def _inside(self, name: str) -> Path:
        """Return a file of the folder; UserError for one elsewhere, which is none of the data set's.

        Links in the folder are followed: in a cache of the hub all files are.
        """
        path = Path(os.path.abspath(self.path / name))
        if not path.is_relative_to(os.path.abspath(self.path)):
            raise UserError(
                f"{self.path} names the file {name}, which is outside of it: copy the whole folder."
            )
        return path

    def _video_of(self, camera: str, note: dict) -> tuple[Path, float]:
        """Return the file with an episode's frames and the second in it that the episode begins at."""
        index, start = note["episode_index"], 0.0
        fields = {"video_key": camera, "episode_index": index}
        if f"videos/{camera}/file_index" in note:  # version 3
            fields |= {name: note[f"videos/{camera}/{name}"] for name in ("chunk_index", "file_index")}
            start = note[f"videos/{camera}/from_timestamp"]
        else:
            fields["episode_chunk"] = index // self._info["chunks_size"]
        pattern = str(self._info["video_path"])
        if not _PLAIN.fullmatch(pattern):
            raise UserError(f"{self.path}: video_path in {INFO} is {pattern!r}, which names no files.")
        return self._inside(pattern.format(**fields)), start


def _is_camera(feature: dict) -> bool:
    if feature.get("dtype") not in ("image", "video"):
        return False
    notes = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return not (notes.get("is_depth_map") or notes.get("video.is_depth_map"))


def _height_and_width(feature: dict) -> tuple[int, int]:
    """Return an image's size: its shape is (H, W, C) or (C, H, W), as the names say."""
    shape, names = list(feature["shape"]), feature.get("names")
    if isinstance(names, list) and names:
        first = str(names[0]).startswith("channel")
    else:
        first = shape[0] in (1, 3) and shape[2] not in (1, 3)
    return tuple(shape[1:] if first else shape[:2])


def _names(feature: dict) -> list[str]:
    """Return the names of a feature's numbers: a list, a list under a key, or numbers by name; else []."""
    names = feature.get("names")
    if isinstance(names, dict):
        values = list(names.values())
        if len(values) == 1 and isinstance(values[0], list):
            names = values[0]
        elif values and all(isinstance(value, int) for value in values):
            names = sorted(names, key=names.get)
    fits = isinstance(names, list) and len(names) == int(np.prod(feature.get("shape", [0])))
    return [str(name) for name in names] if fits and len(set(map(str, names))) == len(names) else []
