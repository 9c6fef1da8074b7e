"""Frames at the size of training: in memory, or where they do not fit, in a file beside the data."""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.errors import UserError
from world_model_ros.model.frames import resize_frame

SHARE = 0.5  # of the memory that is available goes to frames, unless the user says otherwise
GIGABYTE = 1e9
_SLICE = 32 << 20  # bytes of stored frames read at a time


def frames_in_memory(file: EpisodeFile, episodes: list[int], image_size: int | None) -> np.ndarray:
    """Return the frames of episodes, uint8 (N, H, W, 3), resized to ``image_size`` where it is given."""
    height, width = file.frame_shape[:2] if image_size is None else (image_size, image_size)
    frames = np.empty((int(sum(file.lengths[e] for e in episodes)), height, width, 3), np.uint8)
    row = 0
    for part in _read(file, episodes, image_size):
        frames[row : row + len(part)] = part
        row += len(part)
    return frames


class FrameCache:
    """All frames of a data set in one file, uint8 (N, size, size, 3), mapped into memory."""

    def __init__(self, path: Path, lengths: np.ndarray, size: int):
        self.path = path
        self._ends = np.cumsum(lengths)
        self._lengths = lengths
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)  # reading ahead would read ten frames for each that is wanted
        frames = np.frombuffer(self._map, np.uint8)
        self._frames = frames.reshape(int(sum(lengths)), size, size, 3)

    def frames_of(self, episodes: list[int]) -> "CachedFrames":
        """Return the frames of these episodes, one after the other."""
        rows = [np.arange(self._ends[e] - self._lengths[e], self._ends[e]) for e in episodes]
        return CachedFrames(self, np.concatenate(rows))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return frames ``rows`` (...), uint8 (..., size, size, 3).

        All of them are asked for first, so that the disk reads them at once and not one by one.
        """
        wanted = np.unique(rows)
        length = self._frames[0].nbytes
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1):
            if len(run):
                start = int(run[0]) * length // mmap.PAGESIZE * mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, start, (int(run[-1]) + 1) * length - start)
        return self._frames[rows]


class CachedFrames:
    """Frames ``rows`` of a cache; indexing by an array reads them as uint8 (..., H, W, 3)."""

    def __init__(self, cache: FrameCache, rows: np.ndarray):
        self._cache, self._rows = cache, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index) -> np.ndarray:
        return self._cache.read(self._rows[index])


def cache_where_needed(
    file: EpisodeFile,
    size: int,
    memory: float | None = None,
    folder: Path | None = None,
    share: float = SHARE,
) -> FrameCache | None:
    """Return None where all frames of ``file`` fit into memory, and else a cache of them, made once.

    ``memory`` is what frames may take, in gigabytes; by default ``share`` of what is available. The cache is
    a file in ``folder``, by default beside the data; one of the same data and size is used again. Raises
    UserError where it cannot be written.
    """
    needed = int(file.lengths.sum()) * size * size * 3
    allowed = share * available_memory() if memory is None else memory * GIGABYTE
    if needed <= allowed:
        return None
    first = getattr(file, "files", [file])[0].path
    folder = folder or first.parent
    identity = [*_identity(file), [int(length) for length in file.lengths], size]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    stem = f"{first.name}.{size}px-"
    path = folder / f"{stem}{digest}.frames"
    if not path.is_file() or path.stat().st_size != needed:
        print(
            f"note: the frames take {needed / GIGABYTE:.2f} GB at {size} px, {allowed / GIGABYTE:.2f} GB of "
            f"memory may be used (--memory): they are written to {path} once and read from there",
            file=sys.stderr,
        )
        _write(file, size, path, needed, stem)
    return FrameCache(path, file.lengths, size)


def _identity(file: EpisodeFile) -> list:
    """Return what tells one state of the files from another."""
    status = [Path(f.path).stat() for f in getattr(file, "files", [file])]
    return [[s.st_size, s.st_mtime_ns] for s in status]


def _write(file: EpisodeFile, size: int, path: Path, needed: int, stem: str) -> None:
    """Write the cache, completely or not at all, and delete caches of earlier states of the data."""
    elsewhere = "choose another folder with --cache"
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        for old in path.parent.glob(f"{stem}*.frames"):
            old.unlink()
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            raise UserError(
                f"the frames need {needed / GIGABYTE:.2f} GB on disk, {path.parent} has "
                f"{free / GIGABYTE:.2f} GB left: {elsewhere}."
            )
        bar = tqdm(total=int(file.lengths.sum()), desc="frames", unit="frame", disable=None)
        with temporary.open("wb") as out, bar:
            for part in _read(file, range(len(file)), size):
                out.write(part)
                bar.update(len(part))
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): {elsewhere}.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _read(file: EpisodeFile, episodes, image_size: int | None):
    """Yield the frames of episodes in slices, uint8 (n, H, W, 3)."""
    for episode in episodes:
        length = int(file.lengths[episode])
        step = max(1, _SLICE // max(1, int(np.prod(file.frame_shape))))
        for start in range(0, length, step):
            frames = file.pixels(episode, slice(start, start + step))
            if image_size is not None and frames.shape[1:3] != (image_size, image_size):
                frames = np.stack([resize_frame(frame, image_size) for frame in frames])
            yield np.ascontiguousarray(frames)


def available_memory() -> float:
    """Return the bytes of memory that this process may still take, within its control group's limit."""
    limits = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(1024.0 * int(next(n for n in lines if n.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        limits.append(float(max(0, most - used)))
    return min(limits)
