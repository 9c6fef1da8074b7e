"""Assembly of an episode file out of the episodes of others, in slices of bounded memory."""

import contextlib

import h5py
import numpy as np

from world_model_ros.errors import UserError

SUCCESS, FAILURE, NO_LABEL = 1, 0, -1
SOURCES = "ep_source"  # (E,) text: the file that an episode of a merged one came from
MADE_ANEW = ("ep_len", "ep_offset", "episode_idx", "step_idx", "success")
PER = "one_value_per"  # attribute of datasets: "episode" or "file"
SLICE = 32 << 20  # bytes copied at a time
_WIDE = 4096  # bytes of a row from which on each row is a compressed chunk: clips are read frame by frame


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return all datasets of a file, those in groups too, by their paths, without those ``MADE_ANEW``."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and name not in MADE_ANEW:
            found[name] = item

    file.visititems(visit)
    return found


def sort_datasets(
    file: h5py.File, rows: int, episodes: int
) -> tuple[dict[str, h5py.Dataset], dict[str, h5py.Dataset], dict[str, h5py.Dataset]]:
    """Return the datasets of one value per row, those of one per episode, and all others.

    By their lengths, unless it has been noted: a calibration of 3 x 3 does not belong to 3 episodes.
    """
    found = datasets(file)
    per_row = {n: d for n, d in found.items() if d.ndim and len(d) == rows and PER not in d.attrs}
    per_episode = {
        n: d
        for n, d in found.items()
        if d.ndim and len(d) == episodes and n not in per_row and d.attrs.get(PER, "episode") == "episode"
    }
    return per_row, per_episode, {n: d for n, d in found.items() if n not in per_row | per_episode}


class Assembly:
    """An episode file in the making: ``add`` episodes, then ``close``.

    ``check`` is called after each slice that was written and may raise an exception. ``compress``: frames
    that are stored uncompressed are compressed.
    """

    def __init__(self, out: h5py.File, check=lambda: None, compress: bool = False):
        self.out, self.check, self.compress = out, check, compress
        self.lengths: list[int] = []
        self.labels: list[int] = []
        self._rows: set[str] = set()  # names of the datasets of rows
        self._per_episode: dict[str, tuple[h5py.Dataset, list]] = {}

    def add(
        self,
        per_row: dict[str, h5py.Dataset],
        start: int,
        length: int,
        label: int = NO_LABEL,
        per_episode: dict[str, h5py.Dataset] | None = None,
        episode: int = 0,
        ends_early: bool = False,
    ) -> None:
        """Append rows ``start`` to ``start + length`` of each dataset as one episode.

        ``episode`` is its place in the datasets ``per_episode``. ``ends_early`` says that rows followed in
        the source: the last action becomes NaN, since its result is not in the file any more. Raises
        UserError where the datasets differ from those of the episodes before.
        """
        self._rows = self._rows or set(per_row)
        if self._rows != set(per_row):
            differing = sorted(set(per_row) ^ self._rows)
            raise UserError(f"episode {len(self.lengths)} and those before differ in datasets: {differing}.")
        for name, source in per_row.items():
            self._append(name, source, start, length)
        if ends_early and np.issubdtype(per_row["action"].dtype, np.floating):
            self.out["action"][-1] = np.nan
        for name, source in (per_episode or {}).items():
            self._per_episode.setdefault(name, (source.dtype, []))[1].append(source[episode])
        self.lengths.append(length)
        self.labels.append(label)

    def close(self) -> None:
        """Write what belongs to whole episodes, and the index of the rows."""
        lengths = np.asarray(self.lengths, np.int64)
        offsets = np.cumsum(lengths) - lengths
        self.out["ep_len"], self.out["ep_offset"] = lengths.astype(np.int32), offsets
        self.out["episode_idx"] = np.repeat(np.arange(len(lengths)), lengths)
        self.out["step_idx"] = np.arange(lengths.sum()) - np.repeat(offsets, lengths)
        if any(label != NO_LABEL for label in self.labels):
            self.out["success"] = np.asarray(self.labels, np.int8)
        for name, (dtype, values) in self._per_episode.items():
            data = self.out.create_dataset(name, data=np.array(values, dtype), dtype=dtype)
            data.attrs[PER] = "episode"
        self.check()

    def _append(self, name: str, source: h5py.Dataset, start: int, length: int) -> None:
        data = self.out[name] if name in self.out else self._create(name, source)
        if data.shape[1:] != source.shape[1:]:
            raise UserError(
                f"episode {len(self.lengths)}: {name} has rows of {source.shape[1:]}, those before have rows "
                f"of {data.shape[1:]}."
            )
        begin = len(data)
        data.resize(begin + length, axis=0)
        if _same_chunks(source, data) and _copy_chunks(source, start, data, begin, length, self.check):
            return
        step = max(1, SLICE // max(1, row_bytes(source)))
        for first in range(0, length, step):
            last = min(length, first + step)
            data[begin + first : begin + last] = source[start + first : start + last]
            self.check()

    def _create(self, name: str, source: h5py.Dataset) -> h5py.Dataset:
        """Make an empty dataset like ``source``, with its compression where it has chunks."""
        shape = source.shape[1:]
        if source.chunks and (source.compression or not self.compress):
            space = h5py.h5s.create_simple((0, *shape), (h5py.h5s.UNLIMITED, *shape))
            links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            links.set_create_intermediate_group(True)
            plist = source.id.get_create_plist()
            made = h5py.h5d.create(self.out.id, name.encode(), source.id.get_type(), space, plist, links)
            data = h5py.Dataset(made)
        else:
            wide = name.startswith("pixels") or row_bytes(source) >= _WIDE
            data = self.out.create_dataset(
                name,
                (0, *shape),
                source.dtype,
                maxshape=(None, *shape),
                chunks=(1 if wide else 1024, *shape),
                **({"compression": "gzip", "compression_opts": 1} if wide else {}),
            )
        copy_attributes(source, data)
        return data


def copy_attributes(source, target) -> None:
    """Copy the attributes of a file or a dataset, but for references, which would point nowhere."""
    for key, value in source.attrs.items():
        with contextlib.suppress(TypeError, OSError, ValueError, RuntimeError):
            target.attrs[key] = value


def row_bytes(data: h5py.Dataset) -> int:
    """Return the size of a row in memory."""
    return int(np.prod(data.shape[1:])) * data.dtype.itemsize


def _same_chunks(source: h5py.Dataset, data: h5py.Dataset) -> bool:
    """Return whether each row is one chunk in both, compressed in the same way."""
    if source.chunks != (1, *source.shape[1:]) or data.chunks != source.chunks or source.dtype != data.dtype:
        return False
    a, b = (d.id.get_create_plist() for d in (source, data))
    filters = [[p.get_filter(i) for i in range(p.get_nfilters())] for p in (a, b)]
    return filters[0] == filters[1]


def _copy_chunks(source, start: int, data, begin: int, length: int, check) -> bool:
    """Copy compressed rows as they are; return False where the source has rows that were never written."""
    rest = (0,) * (source.ndim - 1)
    try:
        for row in range(length):
            mask, content = source.id.read_direct_chunk((start + row, *rest))
            data.id.write_direct_chunk((begin + row, *rest), content, mask)
            if row % 64 == 63:
                check()
    except (RuntimeError, ValueError, OSError):
        check()
        return False
    check()
    return True
