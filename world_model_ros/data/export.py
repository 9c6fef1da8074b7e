"""An episode file as a LeRobot v3.0 folder.

Frames become PNG files in the parquet rows: lossless, and no video encoder is needed. ``state`` becomes
observation.environment_state, ``proprio`` observation.state. LeRobot's training takes no NaN, so the last
action of an episode, after which nothing was recorded, repeats the one before; reading it makes it NaN again.
What LeRobot has no field for (kind, unit, limits, block) goes to meta/world_model_ros.json.
"""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from world_model_ros.data.atomic import write_json
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.layouts.arrow import require
from world_model_ros.data.layouts.lerobot import ACTION, OURS, PROPRIO, STATE
from world_model_ros.data.recognise import INFO
from world_model_ros.errors import UserError

CAMERA = "observation.images.camera"
VERSION = "v3.0"
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_EPISODES = "meta/episodes/chunk-000/file-000.parquet"
_FILES_IN_CHUNK = 1000
_LARGEST_FILE = 100  # MB, of pictures
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
# what LeRobot adds to every row
_COUNTERS = ("frame_index", "episode_index", "index", "task_index")


def export_lerobot(file: EpisodeFile, folder: Path, task: str | None = None) -> Path:
    """Write all episodes of ``file`` to a new LeRobot folder, complete or not at all; return its path.

    ``task`` is the sentence that LeRobot keeps with each episode. Raises UserError where ``folder`` exists,
    cannot be written, or pyarrow is not installed.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists: choose another folder.")
    attributes = {k: v for k, v in file.attributes.items() if k not in file.assumed}
    if "period" in file.assumed:
        raise UserError(f"{file.path} does not say its control period: give --period.")
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _Writer(unfinished, file, task or str(attributes.get("task") or file.path.stem)).write()
        write_json(unfinished / OURS, attributes)
        unfinished.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): free some space, or choose another "
            "folder."
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


class _Writer:
    """Writes the files of one folder."""

    def __init__(self, folder: Path, file: EpisodeFile, task: str):
        self.arrow = require("pyarrow", "pyarrow", "a LeRobot folder")
        self.parquet = require("pyarrow.parquet", "pyarrow", "a LeRobot folder")
        self.folder, self.file, self.task = folder, file, task
        rate = 1 / (file.attributes["period"] * file.attributes["steps_per_row"])
        self.fps = round(rate) if abs(rate - round(rate)) < 1e-6 * rate else rate
        self.columns = {ACTION: _action_names(file)}
        for key, column in ((STATE, "state"), (PROPRIO, "proprio")):
            values = file.recorded(column, 0)
            if values is not None:
                names = list(file.attributes.get(f"{column}_names") or [])
                fits = len(names) == values.shape[1]
                self.columns[key] = names if fits else [f"{column}_{i}" for i in range(values.shape[1])]

    def write(self) -> None:
        """Write data/ and meta/."""
        notes, all_values, pictures = [], {}, np.zeros((3, 256), np.int64)
        first, number, size, out = 0, -1, np.inf, None
        for index in tqdm(range(len(self.file)), desc="export", unit="episode", leave=False, disable=None):
            values = self._values(index, first)
            frames = self.file.pixels(index)
            images, histogram = [_png(frame) for frame in frames], _histogram(frames)
            if size > _LARGEST_FILE << 20:
                number, size = number + 1, 0
                out = self._next_file(out, number)
            size += sum(map(len, images))
            out.write_table(self._table(values, images))
            length = len(images)
            chunk, name = divmod(number, _FILES_IN_CHUNK)
            statistics = {CAMERA: _picture_statistics(histogram, length)}
            statistics |= {key: _statistics(column) for key, column in values.items()}
            notes.append(
                {
                    "episode_index": index,
                    "tasks": [self.task],
                    "length": length,
                    "data/chunk_index": chunk,
                    "data/file_index": name,
                    "dataset_from_index": first,
                    "dataset_to_index": first + length,
                    "meta/episodes/chunk_index": 0,
                    "meta/episodes/file_index": 0,
                    **{f"stats/{key}/{k}": v for key, part in statistics.items() for k, v in part.items()},
                }
            )
            pictures += histogram
            for key, column in values.items():
                all_values.setdefault(key, []).append(column)
            first += length
        out.close()
        self._write_meta(notes, first)
        total = {CAMERA: _picture_statistics(pictures, first)}
        total |= {key: _statistics(np.concatenate(parts)) for key, parts in all_values.items()}
        write_json(self.folder / "meta" / "stats.json", total)

    def _values(self, index: int, first: int) -> dict[str, np.ndarray]:
        """Return the numbers of an episode by feature, each (T, K); ``first`` is its first row in all."""
        length = int(self.file.lengths[index])
        columns = {ACTION: _without_end(self.file.actions(index))}
        for key, column in ((STATE, "state"), (PROPRIO, "proprio")):
            if key in self.columns:
                columns[key] = self.file.recorded(column, index)
        columns = {key: np.asarray(values, np.float32) for key, values in columns.items()}
        rows = np.arange(length)
        counters = (rows, np.full(length, index), first + rows, np.zeros(length, int))
        columns["timestamp"] = (rows / self.fps).astype(np.float32)[:, None]
        return columns | {name: values[:, None] for name, values in zip(_COUNTERS, counters, strict=True)}

    def _table(self, values: dict[str, np.ndarray], images: list[bytes]):
        pa = self.arrow
        columns = {}
        for key, rows in values.items():
            flat = pa.array(np.ascontiguousarray(rows).ravel())
            width = rows.shape[1]
            columns[key] = flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns[CAMERA] = pa.array([{"bytes": image, "path": None} for image in images], kind)
        return pa.table(columns)

    def _next_file(self, out, number: int):
        """Close ``out`` and open the data file ``number``; an episode becomes one row group."""
        if out is not None:
            out.close()
        chunk, name = divmod(number, _FILES_IN_CHUNK)
        path = self.folder / _DATA.format(chunk_index=chunk, file_index=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        empty = {
            key: np.zeros((0, values.shape[1]), values.dtype) for key, values in self._values(0, 0).items()
        }
        return self.parquet.ParquetWriter(path, self._table(empty, []).schema)

    def _write_meta(self, notes: list[dict], rows: int) -> None:
        pa = self.arrow
        (self.folder / _EPISODES).parent.mkdir(parents=True)
        self.parquet.write_table(pa.Table.from_pylist(notes), self.folder / _EPISODES)
        tasks = pa.table({"task_index": pa.array([0]), "task": [self.task]})
        described = {b"pandas": json.dumps(_TASKS_INDEX).encode()}
        self.parquet.write_table(
            tasks.replace_schema_metadata(described), self.folder / "meta" / "tasks.parquet"
        )
        info = {
            "codebase_version": VERSION,
            "robot_type": None,
            "total_episodes": len(notes),
            "total_frames": rows,
            "total_tasks": 1,
            "chunks_size": _FILES_IN_CHUNK,
            "data_files_size_in_mb": _LARGEST_FILE,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{len(notes)}"},
            "data_path": _DATA,
            "video_path": None,
            "features": self._features(),
        }
        write_json(self.folder / INFO, info)

    def _features(self) -> dict[str, dict]:
        axes = ["height", "width", "channels"]
        features = {CAMERA: {"dtype": "image", "shape": list(self.file.frame_shape), "names": axes}}
        for key, names in self.columns.items():
            features[key] = {"dtype": "float32", "shape": [len(names)], "names": names}
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        return features | {name: {"dtype": "int64", "shape": [1], "names": None} for name in _COUNTERS}


# How pandas is told that the column "task" is the index: LeRobot looks tasks up by it.
_TASKS_INDEX = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {
            "name": name,
            "field_name": name,
            "pandas_type": kind,
            "numpy_type": {"int64": "int64"}.get(kind, "object"),
            "metadata": None,
        }
        for name, kind in (("task_index", "int64"), ("task", "unicode"))
    ],
    "pandas_version": "2.0.0",
}


def _action_names(file: EpisodeFile) -> list[str]:
    """Return a name for each number of an action row: those of several control steps are numbered."""
    names, steps = file.attributes["action_names"], file.attributes["steps_per_row"]
    return list(names) if steps == 1 else [f"{name}.{step}" for step in range(steps) for name in names]


def _without_end(actions: np.ndarray) -> np.ndarray:
    """Return actions with a NaN last row replaced by the row before, by zeros where there is none."""
    actions = actions.copy()
    if np.isnan(actions[-1]).any():
        actions[-1] = actions[-2] if len(actions) > 1 else 0.0
    return actions


def _png(frame: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()


def _statistics(values: np.ndarray) -> dict[str, list]:
    """Return what LeRobot notes on a column (N, K)."""
    quantiles = {name: np.nanquantile(values, q, axis=0).tolist() for name, q in _QUANTILES.items()}
    return {
        "min": np.nanmin(values, 0).tolist(),
        "max": np.nanmax(values, 0).tolist(),
        "mean": np.nanmean(values, 0, dtype=np.float64).tolist(),
        "std": np.nanstd(values, 0, dtype=np.float64).tolist(),
        "count": [len(values)],
        **quantiles,
    }


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Return how often each value is in each channel: (3, 256)."""
    return np.stack([np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)])


def _picture_statistics(histogram: np.ndarray, frames: int) -> dict[str, list]:
    """Return the same for pictures, of values from 0 to 1 in each channel, (3, 1, 1)."""
    scale = np.arange(256) / 255
    share = histogram / histogram.sum(1, keepdims=True)
    mean = share @ scale
    reached = np.cumsum(share, axis=1)
    values = {
        "min": [scale[np.flatnonzero(channel)[0]] for channel in histogram],
        "max": [scale[np.flatnonzero(channel)[-1]] for channel in histogram],
        "mean": mean,
        "std": np.sqrt(np.maximum(share @ scale**2 - mean**2, 0)),
    }
    values |= {
        name: [scale[np.searchsorted(channel, q - 1e-12)] for channel in reached]
        for name, q in _QUANTILES.items()
    }
    return {name: [[[float(v)]] for v in column] for name, column in values.items()} | {"count": [frames]}
