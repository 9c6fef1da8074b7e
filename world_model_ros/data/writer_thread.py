"""Writes the episodes of a recording in a thread of its own: a slow disk delays no message.

Each finished episode is read back and compared with what was given. All sentences are for people.
"""

import queue
import threading
import zlib
from concurrent.futures import Future
from pathlib import Path

import h5py
import numpy as np

from world_model_ros.data.assembly import FAILURE, NO_LABEL, SUCCESS
from world_model_ros.data.episodes import EpisodeWriter
from world_model_ros.data.ingest import Row
from world_model_ros.data.lock import RECORDER, WriteLock
from world_model_ros.data.words import plural
from world_model_ros.errors import UserError

LABELS = {SUCCESS: "success", FAILURE: "failure", NO_LABEL: "no label"}
READ_BACK = 1 << 30  # bytes of each dataset that are read back; of a larger one evenly spread parts
_AT_ONCE = 16  # rows that are read at a time: a strided read is 200 times slower


class WriterThread:
    """Takes the rows of recordings with ``add``, and what becomes of each with ``end`` or ``discard``.

    A recording has one episode, or several where its rows begin anew. Raises UserError where ``path`` cannot
    be continued or another process writes it.
    """

    def __init__(self, path: Path, attributes: dict, period: float):
        self._lock = WriteLock(path, RECORDER)
        try:
            self.writer = EpisodeWriter(path, attributes)
        except BaseException:
            self._lock.release()
            raise
        for left in self.writer.parts.glob("*.tmp"):  # of a process that was killed
            left.unlink()
        self.error = ""  # why the recording in progress is lost
        self.period = period  # seconds from row to row
        self._given = self._done = 0  # bytes; each is changed by one thread only
        self._part: _Part | None = None
        self._parts: list[_Part] = []  # of the last recording, the finished ones
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="episode writer", daemon=True)
        self._thread.start()

    @property
    def episodes(self) -> int:
        """Number of the episodes that are safe on disk."""
        return self.writer.episodes

    @property
    def removed(self) -> str:
        """That the folder of the episodes is gone, a phrase with the remedy, or ""."""
        if self._lock.held:
            return ""
        return (
            f"{self.writer.parts}, where the episodes are until the end, was removed or moved: put it back, "
            "or end the recorder and start it again"
        )

    @property
    def waiting(self) -> int:
        """Bytes of rows that are not written yet."""
        return self._given - self._done

    def add(self, rows: list[Row]) -> None:
        """Write consecutive rows of one episode."""
        self._given += _bytes(rows)
        self._jobs.put(rows)

    def end(self, label: int, report: str) -> Future:
        """End the recording; the result is ``report`` and what was read back, or a UserError."""
        return self._later(lambda: self._end(label, report))

    def discard(self) -> Future:
        """Leave nothing of the recording in progress."""
        return self._later(self._discard)

    def label(self, label: int) -> Future:
        """Label the episodes of the recording that has ended last."""
        return self._later(lambda: self._label(label))

    def remove_last(self) -> Future:
        """Delete the last episode."""
        return self._later(self._remove_last)

    def close(self) -> str:
        """Wait until all is written, and make the one file of all episodes.

        Raises UserError where the disk is full; what was finished stays.
        """
        self._jobs.put(None)
        self._thread.join()
        if self._part is not None:
            self._part.abandon()
        try:
            if not self.writer.episodes:
                self.writer.parts.joinpath("attributes.json").unlink(missing_ok=True)
                return f"{self.writer.path}: no episode was recorded, so it was not written"
            if self.writer.added and not self._lock.held:  # another one's may be there now
                raise self.writer.lost()
            self.writer.finish()
            return f"{self.writer.path}: {plural(self.writer.episodes, 'episode')}"
        finally:
            self._lock.release()

    def _later(self, act) -> Future:
        future: Future = Future()
        self._jobs.put((act, future))
        return future

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, list):
                self._write(job)
                self._done += _bytes(job)
                continue
            act, future = job
            try:
                future.set_result(act())
            except Exception as error:
                future.set_exception(error)

    def _write(self, rows: list[Row]) -> None:
        if self.error:
            return
        try:
            if rows[0].first:
                if self._part is None:
                    self._parts = []
                else:
                    self._close_part(NO_LABEL)
                self._part = _Part(self.writer)
            self._part.add(rows)
        except Exception as error:
            self.error, self._part = str(error), None
            if not isinstance(error, UserError):
                self.error = f"this episode is lost ({type(error).__name__}: {error})."

    def _close_part(self, label: int) -> None:
        part, self._part = self._part, None
        part.close(label)
        self._parts.append(part)

    def _end(self, label: int, report: str) -> str:
        error, self.error = self.error, ""
        if error:
            raise UserError(error)
        if self._part is None:
            raise UserError(f"nothing was recorded: no two steps in a row had every stream.\n{report}")
        earlier = list(self._parts)
        self._close_part(label)
        if label != NO_LABEL:
            for part in earlier:
                self.writer.set_label(part.index, label)
        found = [part.read_back(LABELS[label], self.period) for part in self._parts]
        return "\n".join([*filter(None, [report]), *found])

    def _discard(self) -> str:
        error, self.error = self.error, ""
        part, self._part = self._part, None
        if part is None and not error:
            return "discarded, nothing was recorded yet"
        if part is not None:
            part.abandon()
        while self._parts:
            self._parts.pop()
            self.writer.remove_last()
        stored = self.writer.episodes
        return f"discarded, {plural(stored, 'episode')} {'is' if stored == 1 else 'are'} stored"

    def _label(self, label: int) -> str:
        if not self._parts:
            raise UserError("there is no episode to label: record one first.")
        for part in self._parts:
            self.writer.set_label(part.index, label)
        return f"episode {', '.join(str(p.index) for p in self._parts)}: {LABELS[label]}"

    def _remove_last(self) -> str:
        index = self.writer.remove_last()
        self._parts = [part for part in self._parts if part.index != index]
        stored = self.writer.episodes
        return f"episode {index} is deleted, {stored} {'is' if stored == 1 else 'are'} stored"


class _Part:
    """An episode that is being written, and checksums of its rows."""

    def __init__(self, writer: EpisodeWriter):
        self.index = max(writer.done, default=-1) + 1
        self.path = writer.part(self.index)
        self._context = writer.open(self.index)
        self._episode = self._context.__enter__()
        self._sums: dict[str, list[int]] = {}

    def add(self, rows: list[Row]) -> None:
        columns = {name: np.stack([row.columns[name] for row in rows]) for name in rows[0].columns}
        try:
            self._episode(columns)
        except BaseException as error:
            self._context.__exit__(type(error), error, error.__traceback__)  # raises what users should read
            raise
        for name, values in columns.items():
            self._sums.setdefault(name, []).extend(zlib.crc32(row.data) for row in values)

    def close(self, label: int) -> None:
        self._episode.label = label
        self._context.__exit__(None, None, None)

    def abandon(self) -> None:
        error = RuntimeError("abandoned")
        self._context.__exit__(RuntimeError, error, None)

    def read_back(self, label: str, period: float) -> str:
        """Return what the file holds. Raises UserError where it is not what was given."""
        try:
            with h5py.File(self.path) as file:
                for name, sums in self._sums.items():
                    if name not in file or len(file[name]) != len(sums):
                        raise OSError(f"{name} is incomplete")
                    _compare(file[name], sums)
                words = _contents(file)
        except Exception as error:  # a damaged file may hold anything anywhere
            raise UserError(
                f"episode {self.index} is not on the disk as it was recorded ({error}): delete it, and check "
                "the disk."
            ) from None
        rows = len(self._sums["action"])
        size = self.path.stat().st_size / 1e6
        words = [f"{rows} rows", f"{(rows - 1) * period:.1f} s", *words, label, f"{size:.1f} MB"]
        notes = [
            f"\n  {name} never changes: is the camera frozen, or did the robot stand still?"
            for name, sums in self._sums.items()
            if name.startswith("pixels") and rows > 2 and len(set(sums)) == 1
        ]
        if rows > 2 and len(set(self._sums["action"][:-1])) == 1:
            notes.append("\n  the actions never change: was the robot moved?")
        return f"episode {self.index}: {', '.join(words)}; read back, as recorded{''.join(notes)}"


def _compare(data: h5py.Dataset, sums: list[int]) -> None:
    """Raise OSError where rows of ``data`` have other checksums."""
    row = max(1, int(np.prod(data.shape[1:])) * data.dtype.itemsize)
    at_once = max(1, min(_AT_ONCE, READ_BACK // (4 * row)))
    skipped = at_once * (len(sums) * row // READ_BACK)
    for first in range(0, len(sums), at_once + skipped):
        for i, values in enumerate(data[first : first + at_once]):
            if zlib.crc32(np.ascontiguousarray(values).data) != sums[first + i]:
                raise OSError(f"{data.name[1:]} differs in row {first + i}")


def _contents(file: h5py.File) -> list[str]:
    """Return what stands in the columns, a phrase each."""
    words = [
        f"{name} {file[name].shape[2]} x {file[name].shape[1]}"
        for name in sorted(file)
        if name.startswith("pixels")
    ]
    actions = file["action"][:-1]
    words.append(f"{file['action'].shape[1]} action values from {actions.min():.3g} to {actions.max():.3g}")
    if "proprio" in file:
        words.append(f"{file['proprio'].shape[1]} joint values")
    return words


def _bytes(rows: list[Row]) -> int:
    return sum(values.nbytes for row in rows for values in row.columns.values())
