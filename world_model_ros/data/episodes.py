"""Episodes in HDF5, in the published LeWM layout plus attributes that give the meaning of the numbers.

One row per recorded frame, episodes contiguous: ``pixels`` uint8 (N, H, W, 3), ``action`` float32
(N, A), ``state`` and ``proprio`` float32, ``episode_idx``, ``step_idx``, ``ep_len`` (E,), ``ep_offset``
(E,). The attribute ``steps_per_row`` says how many control steps lie between two rows; an action row
holds all of them, step by step. It is 1 in published files and for recorded robots; the sims render
only the frames that a model step needs. The last action of an episode is NaN: nothing followed it.
``pixels_<name>`` has the frames of a further camera, which no model sees today.
``success`` int8 (E,), where there is one, has the labels: 1 success, 0 failure, -1 none.
"""

import contextlib
import json
import re
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from world_model_ros.data.assembly import (
    FAILURE,
    NO_LABEL,
    PER,
    SUCCESS,
    Assembly,
    copy_attributes,
    sort_datasets,
)
from world_model_ros.data.atomic import write_text, written
from world_model_ros.data.lock import parts_of, writer_of
from world_model_ros.data.pixels import Pixels
from world_model_ros.data.recognise import PUBLISHED, hint
from world_model_ros.data.unstated import NEEDED, combine
from world_model_ros.data.words import plural
from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionInterface

_COLUMNS = {"pixels": np.uint8, "action": np.float32, "state": np.float32, "proprio": np.float32}
_COPIED = 64  # rows at a time
_PART = re.compile(r"episode-(\d{8})\.h5")
_BLOSC = 32001  # HDF5's number of the filter that published files use
# What is shown where a file says nothing, as "assumed"; nothing is trained with it.
_ASSUMED = {"action_kind": "twist", "action_unit": "", "period": 0.05, "block": 5}


def _decode(value):
    """Return an HDF5 attribute as plain Python."""
    if isinstance(value, np.ndarray):
        return [_decode(v) for v in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


def _open(path: Path, mode: str = "r") -> h5py.File:
    try:
        return h5py.File(path, mode)
    except FileNotFoundError:
        if writer := writer_of(path):
            raise UserError(f"{path} is not there yet: {writer} makes it when it ends.") from None
        if parts_of(path).is_dir():
            raise UserError(
                f"{path} was not finished, its episodes are in {parts_of(path)}: join them with `record "
                f"--finish --out {path}`, or continue what was interrupted."
            ) from None
        raise UserError(
            f"no episode file at {path}: make one with `record` or `collect`, or check the path."
        ) from None
    except OSError as error:
        other = hint(path)
        raise UserError(other or f"{path} is not a readable HDF5 episode file ({error}).") from None


class EpisodeFile:
    """Read-only view of an episode file, of this package or a published one.

    ``given`` are attributes for what the file itself does not state; ``assumed`` lists those that neither
    states. Raises UserError when the file is missing, unreadable, lacks a column or contradicts ``given``.
    """

    def __init__(self, path: str | Path, given: dict | None = None):
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self._read(given or {})
        except UserError:
            self.close()
            raise
        except Exception as error:  # a damaged file may hold anything anywhere
            self.close()
            raise UserError(f"{self.path} is damaged ({error}): copy or record it again.") from None

    def _read(self, given: dict) -> None:
        """Read and check everything but the rows."""
        missing = [name for name in PUBLISHED if name not in self._file]
        if missing:
            other = hint(self.path)
            raise UserError(other or f"{self.path} lacks the datasets {missing}: it is not an episode file.")
        columns = {name: self._file[name] for name in _COLUMNS if name in self._file}
        rows = len(columns["pixels"])
        for name, column in columns.items():
            if column.ndim < 1 or len(column) != rows:
                raise UserError(
                    f"{self.path} is inconsistent: its columns differ in length ({rows} frames, {name} has "
                    f"the shape {column.shape})."
                )
            _find_filters(column, self.path)
        action = columns["action"]
        if action.ndim > 2:
            raise UserError(
                f"{self.path} is inconsistent: its datasets have shapes that do not fit together "
                f"(action {action.shape} must have a row of numbers for each frame)."
            )
        self._pixels = Pixels(columns["pixels"], str(self.path))
        index = (self._file["ep_len"], self._file["ep_offset"])
        sizes = {values.shape[:1] for values in index if values.size == len(values)}
        if len(sizes) != 1 or any(values.size != len(values) for values in index):
            raise UserError(
                f"{self.path} is inconsistent: its datasets have shapes that do not fit together "
                f"(ep_len {index[0].shape}, ep_offset {index[1].shape})."
            )
        if len(index[0]) > rows:
            raise UserError(f"{self.path} is inconsistent: it has more episodes than rows.")
        self.lengths, self.offsets = (values[:].reshape(-1).astype(np.int64) for values in index)
        if len(self.lengths) == 0:
            raise UserError(f"{self.path} holds no episode: collect or record some first.")
        if np.any(self.lengths < 1) or np.any(self.offsets < 0) or np.any(self.offsets > rows - self.lengths):
            raise UserError(f"{self.path} is inconsistent: its episodes point outside its {rows} rows.")
        self._read_attributes(action, given)

    def _read_attributes(self, action: h5py.Dataset, given: dict) -> None:
        stated = {k: _decode(v) for k, v in self._file.attrs.items()}
        stated = {k: v for k, v in stated.items() if k not in NEEDED or v not in ("", [])}
        stated = combine(stated, given, str(self.path))
        self.assumed = tuple(name for name in NEEDED if name not in stated)
        self.attributes = {"steps_per_row": 1, **_ASSUMED, **stated}
        for name, kinds in (("steps_per_row", int), ("block", int), ("period", (int, float))):
            value = self.attributes[name]
            if not isinstance(value, kinds) or not 0 < value < float("inf"):
                raise UserError(f"{self.path} is inconsistent: its attribute {name} is {value!r}.")
        width = action.shape[1] if action.ndim == 2 else 1
        steps = self.attributes["steps_per_row"]
        names = self.attributes.setdefault("action_names", [f"action_{i}" for i in range(width // steps)])
        if width != steps * len(names):
            raise UserError(
                f"{self.path} is inconsistent: action rows of {width} numbers do not hold "
                f"{steps} steps of {names}."
            )
        for end in ("action_low", "action_high"):
            limits = self.attributes.get(end)
            if limits not in (None, []) and not (isinstance(limits, list) and len(limits) == len(names)):
                raise UserError(
                    f"{self.path} is inconsistent: {end} must have a number for each of {names}, it is "
                    f"{limits!r}."
                )

    def assume(self, interface: ActionInterface) -> None:
        """Take what the file does not state from a checkpoint that is used on it."""
        values = {
            "action_names": list(interface.names),
            "action_kind": interface.kind,
            "action_unit": interface.unit,
            "period": interface.period,
            "block": interface.block,
        }
        width = len(self.attributes["action_names"])
        taken = {name: values[name] for name in self.assumed}
        if "action_names" in taken and len(interface.names) != width:
            del taken["action_names"]  # it is about another action: the comparison will say so
        if "action_kind" in taken:
            self.attributes.setdefault("action_frame", interface.frame)
        self.attributes |= taken

    def __len__(self) -> int:
        return len(self.lengths)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rows(self, column: str, episode: int, part: slice = slice(None)) -> np.ndarray:
        if not 0 <= episode < len(self):
            raise UserError(f"{self.path} has episodes 0 to {len(self) - 1}, there is no episode {episode}.")
        first, last, step = part.indices(int(self.lengths[episode]))
        start = int(self.offsets[episode])
        try:
            rows = self._file[column][start + first : start + max(first, last) : step]
        except KeyError:
            raise UserError(f"{self.path} has no column {column!r}.") from None
        except Exception as error:  # a damaged file may hold anything anywhere
            raise UserError(f"{self.path}: {column} cannot be read ({error}).") from None
        return rows[:, None] if rows.ndim == 1 else rows

    def pixels(self, episode: int, part: slice = slice(None)) -> np.ndarray:
        """Return the frames of an episode, or a part of them, uint8 (T, H, W, 3).

        They are so however the file stores them.
        """
        return self._pixels.rgb(self._rows("pixels", episode, part))

    @property
    def notes(self) -> list[str]:
        """What a person should know about how the file is read, a phrase each."""
        return [*self._pixels.notes, *filter(None, [self.waiting])]

    @property
    def waiting(self) -> str:
        """Who writes the file at this moment, and which episodes are not in it yet, a phrase or ""."""
        parts, writer = parts_of(self.path), writer_of(self.path)
        left = len([f for f in parts.glob("*.h5") if _PART.fullmatch(f.name)])
        more = f"{plural(left, 'more episode')} {'is' if left == 1 else 'are'} in {parts}"
        if writer:
            return f"{writer} has it open" + (f": {more}, and joined when it ends" if left else "")
        return f"{more}: `record --finish` joins {'it' if left == 1 else 'them'}" if left else ""

    def actions(self, episode: int) -> np.ndarray:
        """Return its action rows, float32 (T, steps_per_row * dim), physical units, the last NaN."""
        return self._rows("action", episode)

    def states(self, episode: int) -> np.ndarray:
        """Return its states, float32 (T, S); UserError where none were recorded."""
        return self._rows("state", episode)

    def recorded(self, column: str, episode: int) -> np.ndarray | None:
        """Return an episode's rows of "state" or "proprio", None where the file has none."""
        return self._rows(column, episode) if column in self._file else None

    def proprio(self, episode: int) -> np.ndarray:
        """Return what the robot knew of itself, float32 (T, P); P is 0 where nothing was recorded."""
        if "proprio" not in self._file:
            return np.zeros((self.lengths[episode], 0), np.float32)
        return self._rows("proprio", episode)

    def coordinates(self, episode: int) -> np.ndarray:
        """Return its states, of a file without states its proprio, float32 (T, S); S is 0 without either."""
        column = "state" if self.has_states else "proprio"
        if column not in self._file:
            return np.zeros((self.lengths[episode], 0), np.float32)
        return self._rows(column, episode)

    @property
    def coordinate_names(self) -> list[str]:
        """Names of the ``coordinates``; numbered where the file names none."""
        column = "state" if self.has_states else "proprio"
        width = self._file[column][:1].reshape(1, -1).shape[1] if column in self._file else 0
        names = list(self.attributes.get(f"{column}_names") or [])
        return names if len(names) == width else [f"{column}_{i}" for i in range(width)]

    @property
    def labels(self) -> np.ndarray:
        """Labels of the episodes, int8 (E,): 1 success, 0 failure, -1 none; none where the file has none."""
        none = np.full(len(self), NO_LABEL, np.int8)
        labels = self._file["success"][()] if "success" in self._file else none
        known = np.isin(labels, (SUCCESS, FAILURE))
        return np.where(known, labels, NO_LABEL).astype(np.int8) if labels.shape == none.shape else none

    @property
    def whole_number_actions(self) -> bool:
        """Whether the actions are stored as integers: nothing physical is."""
        return self._file["action"].dtype.kind in "iub"

    @property
    def has_states(self) -> bool:
        """Whether states were recorded."""
        return "state" in self._file

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a frame."""
        return self._pixels.frame_shape


def _find_filters(column: h5py.Dataset, path: Path) -> None:
    """Load what decompresses ``column``; UserError, naming the filter, where it is not installed."""
    filters = column.id.get_create_plist()
    for i in range(filters.get_nfilters()):
        number = filters.get_filter(i)[0]
        if not h5py.h5z.filter_avail(number):
            with contextlib.suppress(ImportError):
                import hdf5plugin  # noqa: F401
        if not h5py.h5z.filter_avail(number):
            name = "Blosc" if number == _BLOSC else f"HDF5 filter {number}"
            raise UserError(
                f"{path}: {column.name[1:]} is compressed with {name}: run `pip install hdf5plugin`."
            )


class EpisodeWriter:
    """Write episodes so that a killed process loses only the one in progress.

    Every finished episode becomes a small file of its own in ``<path>.parts`` by an atomic rename;
    ``finish`` merges them, in the order of their indices, behind what ``path`` already holds, and
    renames the result into place. Opening the same path again with the same attributes continues: parts that
    cannot be read are moved to ``<path>.damaged``, and stderr names them. Raises UserError when the
    attributes contradict those of an earlier run.
    """

    def __init__(self, path: str | Path, attributes: dict):
        self.path = Path(path)
        self.parts = parts_of(self.path)
        self.attributes = json.loads(json.dumps(attributes))
        self._merged = 0
        self._layout: dict[str, tuple] | None = None  # of the rows of each dataset
        if self.path.exists():
            with EpisodeFile(self.path) as file:
                self._check(file.attributes, self.path)
                self._merged = len(file)
                self._layout = _layout(sort_datasets(file._file, len(file._file["pixels"]), len(file))[0])
        self.parts.mkdir(parents=True, exist_ok=True)
        note = self.parts / "attributes.json"
        try:
            self._check(json.loads(note.read_text()), self.parts)
        except (FileNotFoundError, ValueError):  # a power cut may have left it empty
            write_text(note, json.dumps(self.attributes, indent=2))
        self._staged = {int(m[1]) for f in self.parts.iterdir() if (m := _PART.fullmatch(f.name))}
        self._set_damaged_aside()
        self._drop_merged()

    def _check(self, stored: dict, where: Path) -> None:
        differing = [
            f"{key} {stored.get(key)!r} there, {value!r} now"
            for key, value in self.attributes.items()
            if stored.get(key) != value
        ]
        if differing:
            raise UserError(
                f"{where} was made with other settings ({'; '.join(differing)}): "
                "choose another file or delete it."
            )

    @property
    def done(self) -> set[int]:
        """Indices of the episodes that are safe on disk."""
        return set(range(self._merged)) | self._staged

    @property
    def episodes(self) -> int:
        """Number of episodes that are safe on disk."""
        return len(self.done)

    @property
    def added(self) -> int:
        """Number of those that are not in the file yet."""
        return len(self._staged)

    def append(
        self,
        pixels,
        action,
        state=None,
        proprio=None,
        index: int | None = None,
        label: int = NO_LABEL,
        more: dict | None = None,
    ) -> int:
        """Store one finished episode; return its index (the next free one by default).

        pixels uint8 (T, H, W, 3); action (T, steps_per_row * dim), physical units, the last row NaN;
        state (T, S) and proprio (T, P) optional; ``more`` has further datasets of T rows, such as
        ``pixels_<camera>``. ``label`` is 1 success, 0 failure, -1 none. Raises ValueError for other shapes,
        UserError for datasets other than those of the episodes before and where the disk is full: then this
        episode is lost, and no other.
        """
        columns = {"pixels": pixels, "action": action, "state": state, "proprio": proprio}
        columns = {k: np.asarray(v, _COLUMNS[k]) for k, v in columns.items() if v is not None}
        length = len(columns["pixels"])
        if columns["pixels"].ndim != 4 or length == 0:
            raise ValueError(f"pixels must be (T, H, W, 3), they are {columns['pixels'].shape}")
        for name, values in columns.items():
            if len(values) != length or (name != "pixels" and values.ndim != 2):
                raise ValueError(f"{name} has shape {values.shape}, the episode has {length} rows")
        for name, values in (more or {}).items():
            columns[name] = np.asarray(values)
            if columns[name].shape[:1] != (length,):
                raise ValueError(f"{name} has shape {columns[name].shape}, the episode has {length} rows")
        self._checked_layout(columns)
        if index is None:
            index = max(self.done, default=-1) + 1
        with self.open(index, label) as add:
            add(columns)
        return index

    def _checked_layout(self, columns: dict[str, np.ndarray]) -> dict[str, tuple]:
        """Return the shape of a row of each column; UserError where it is not that of the episodes before."""
        layout = _layout(columns)
        if self._layout not in (None, layout):
            raise UserError(
                f"{self.path}: this episode has rows of {layout}, those before it of {self._layout}: choose "
                "another file for it."
            )
        return layout

    @contextlib.contextmanager
    def open(self, index: int | None = None, label: int = NO_LABEL):
        """Store an episode that comes piece by piece, in little memory: it is safe after the block.

        Yields an ``OpenEpisode``. An exception in the block leaves nothing of the episode. Raises as
        ``append`` does.
        """
        if index is None:
            index = max(self.done, default=-1) + 1
        if index in self.done:
            raise ValueError(f"episode {index} is stored already")
        safe = f"this episode is lost, the {self.episodes} before it are safe"
        with written(self.part(index), safe) as (file, check):
            episode = OpenEpisode(file, check, self._checked_layout, label)
            yield episode
            file.attrs["success"] = episode.label
        self._staged.add(index)
        self._layout = episode.layout or self._layout

    def remove_last(self) -> int:
        """Delete the last episode that is not merged yet; return its index. UserError where there is none."""
        if not self._staged:
            raise UserError(
                f"no further episode was added to {self.path} since it was opened: delete older ones with "
                "`episodes drop`."
            )
        last = max(self._staged)
        self.part(last).unlink(missing_ok=True)
        self._staged.remove(last)
        return last

    def set_label(self, index: int, label: int) -> None:
        """Label an episode that is not merged yet: 1 success, 0 failure, -1 none.

        Raises UserError where the disk is full: then it keeps the label that it had.
        """
        part = self.part(index)
        with written(part, f"episode {index} keeps its label") as (out, check), _open(part) as old:
            for name in old:
                old.copy(name, out)
                check()
            out.attrs["success"] = label

    def finish(self) -> Path:
        """Merge everything stored into the one file and return its path.

        Parts that were damaged or deleted meanwhile are left out, and stderr says so. Raises UserError when
        nothing was stored, all of it was deleted or the disk is full; what was stored stays stored.
        """
        self._set_damaged_aside()
        added = len(self._staged)
        self._close_gaps()
        if not self._staged:
            if added:
                raise self.lost(added)
            self._remove_parts()
            if not self._merged:
                raise UserError(f"no episode was finished, so {self.path} was not written.")
            return self.path
        if self._merged and not self.path.exists():
            raise UserError(
                f"{self.path} was removed while it was continued: `record --finish --out {self.path}` makes "
                f"it of the {plural(len(self._staged), 'episode')} in {self.parts}."
            )
        with written(self.path, f"all {self.episodes} episodes are safe, finish later") as (out, check):
            assembly = Assembly(out, check, compress=True)
            if self._merged:
                with EpisodeFile(self.path) as old:
                    add_episodes(assembly, old, range(len(old)))
            out.attrs.update(self.attributes)
            bar = tqdm(sorted(self._staged), desc="join", unit="episode", leave=False, disable=None)
            for index in bar:
                with _open(self.part(index)) as part:
                    label = int(part.attrs.get("success", NO_LABEL))
                    assembly.add(dict(part), 0, len(part["pixels"]), label)
            assembly.close()
        self._merged, self._staged = len(assembly.lengths), set()
        self._remove_parts()
        return self.path

    def lost(self, count: int | None = None) -> UserError:
        """Return what tells that the added episodes are gone (all by default), and what the file holds."""
        count = len(self._staged) if count is None else count
        self._staged, self._merged = set(), 0
        held = f"{self.path} was not written"
        if self.path.exists():
            with EpisodeFile(self.path) as file:
                self._merged = len(file)
            held = f"{self.path} holds {plural(self._merged, 'episode')}"
        verb, them = ("is", "it") if count == 1 else ("are", "them")
        return UserError(
            f"{plural(count, 'episode')} of {self.parts} {verb} gone, somebody removed or moved {them} "
            f"meanwhile: {held}."
        )

    def part(self, index: int) -> Path:
        """Return the file of an episode that is not merged yet."""
        return self.parts / f"episode-{index:08d}.h5"

    def _set_damaged_aside(self) -> None:
        """Move the parts that cannot be merged to ``<path>.damaged``, and say so."""
        aside = self.path.with_name(self.path.name + ".damaged")
        for index in sorted(self._staged):
            part = self.part(index)
            if not part.exists():
                continue
            layout, why = _part_layout(part)
            if not why and self._layout not in (None, layout):
                why = f"its rows are {layout}, those of the episodes before {self._layout}"
            if why:
                aside.mkdir(exist_ok=True)
                part.rename(_free(aside / part.name))
                self._staged.remove(index)
                _note(f"episode {index} of {self.path} cannot be used ({why}): it was moved to {aside}")
            else:
                self._layout = layout

    def _drop_merged(self) -> None:
        """Delete the parts that are in the file already: a kill came between the merging and the deleting."""
        for index in sorted(i for i in self._staged if i < self._merged):
            with EpisodeFile(self.path) as file, _open(self.part(index)) as part:
                same = file.lengths[index] == len(part["pixels"]) and all(
                    np.array_equal(part[c][()], file._rows(c, index), equal_nan=part[c].dtype.kind == "f")
                    for c in part
                )
            free = max(self.done) + 1
            self._staged.remove(index)
            if same:
                self.part(index).unlink()
            else:  # another file has been put in place meanwhile
                self.part(index).rename(self.part(free))
                self._staged.add(free)

    def _close_gaps(self) -> None:
        """Number the parts without a gap, and say which are missing."""
        present = {i for i in self._staged if self.part(i).exists()}
        missing = sorted(set(range(self._merged, max(self._staged, default=-1) + 1)) - present)
        if missing and present:
            _note(
                f"episode{'s' * (len(missing) > 1)} {', '.join(map(str, missing))} of {self.path} "
                f"{'are' if len(missing) > 1 else 'is'} missing: the later ones get lower numbers"
            )
        for new, index in enumerate(sorted(present), self._merged):
            if new != index:
                self.part(index).rename(self.part(new))
        self._staged = set(range(self._merged, self._merged + len(present)))

    def _remove_parts(self) -> None:
        shutil.rmtree(self.parts, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.finish()


class OpenEpisode:
    """An episode that comes piece by piece: call it with the columns of some rows, by name, each (n, ...).

    ``label`` may be set until it ends.
    """

    def __init__(self, file: h5py.File, check, checked_layout, label: int):
        self.label = label
        self.layout: dict | None = None
        self._file, self._check, self._checked_layout = file, check, checked_layout

    def __call__(self, columns: dict[str, np.ndarray]) -> None:
        """Append rows. Raises UserError for datasets other than those of the episodes before."""
        columns = {k: np.asarray(v, _COLUMNS.get(k)) for k, v in columns.items()}
        self.layout = self.layout or self._checked_layout(columns)
        _add_rows(self._file, self._check, columns)


def _add_rows(file: h5py.File, check, columns: dict[str, np.ndarray]) -> None:
    """Append rows to the datasets of ``file``, which the first ones make."""
    for name, values in columns.items():
        if name not in file:
            chunk = (1 if name.startswith("pixels") else _COPIED, *values.shape[1:])
            file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]), chunks=chunk)
        else:
            file[name].resize(len(file[name]) + len(values), axis=0)
            file[name][-len(values) :] = values
        check()


def add_episodes(assembly: Assembly, file: EpisodeFile, episodes, cut=None) -> None:
    """Add episodes of ``file`` to an assembly, with all further datasets and the file's attributes.

    ``cut`` maps an episode to the frames to leave out at its start and at its end. Datasets that belong
    neither to rows nor to episodes are copied once.
    """
    source = file._file
    per_row, per_episode, others = sort_datasets(source, len(source["pixels"]), len(file))
    copy_attributes(source, assembly.out)
    for name in others:
        if name not in assembly.out:
            source.copy(name, assembly.out, name)
            assembly.out[name].attrs[PER] = "file"
    labels = file.labels
    for episode in tqdm(episodes, desc="copy", unit="episode", leave=False, disable=None):
        first, last = (cut or {}).get(episode, (0, 0))
        assembly.add(
            per_row,
            int(file.offsets[episode]) + first,
            int(file.lengths[episode]) - first - last,
            int(labels[episode]),
            per_episode,
            episode,
            ends_early=last > 0,
        )


def _layout(columns: dict) -> dict[str, tuple]:
    """Return the shape of a row of each dataset."""
    return {name: tuple(values.shape[1:]) for name, values in sorted(columns.items())}


def _part_layout(path: Path) -> tuple[dict[str, tuple] | None, str]:
    """Read a part; return the shapes of its rows, and what is wrong with it or ""."""
    try:
        with _open(path) as part:
            columns = {name: part[name][()] for name in part}
    except Exception as error:  # a damaged file may hold anything anywhere
        return None, f"it is damaged: {error}" if not isinstance(error, UserError) else "it is damaged"
    if not {"pixels", "action"} <= columns.keys() or len({len(c) for c in columns.values()}) != 1:
        return None, "it is damaged"
    return _layout(columns), ""


def _free(path: Path) -> Path:
    """Return ``path``, or where that exists, the first free name beside it."""
    numbers = (path.with_name(f"{path.stem}.{i}{path.suffix}") for i in range(1, 1_000_000))
    return path if not path.exists() else next(p for p in numbers if not p.exists())


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
