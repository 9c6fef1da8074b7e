"""MCAP files that were never closed: their recorder was killed, or its disk was full.

Such a file ends in the middle of a record and has no index. Read as if it had been closed after the last
complete record, it loses that record only: what a recorder had not written yet.
"""

import io
from pathlib import Path

_MAGIC = b"\x89MCAP0\r\n"
_HEAD = 9  # bytes before each record's content: what it is, and its length
_DATA_END, _FOOTER = 0x0F, 0x02
_CLOSING = bytes([_FOOTER]) + (20).to_bytes(8, "little") + bytes(20) + _MAGIC  # it points to no index


def is_unclosed(path: Path) -> bool:
    """Return whether ``path`` is an MCAP file that does not end as one."""
    if path.suffix != ".mcap" or path.stat().st_size < len(_MAGIC) + _HEAD:
        return False
    with path.open("rb") as file:
        begins = file.read(len(_MAGIC)) == _MAGIC
        file.seek(-len(_MAGIC), io.SEEK_END)
        return begins and file.read() != _MAGIC


class UnclosedMcap(type(Path())):
    """The path of an unclosed MCAP file, which opens as a closed one."""

    def open(self, *_, **__) -> io.BufferedReader:  # always for reading bytes
        """Open the file, its complete records followed by a footer."""
        return io.BufferedReader(_Closed(str(self)))


class _Closed(io.RawIOBase):
    def __init__(self, path: str):
        self._file = open(path, "rb")  # noqa: SIM115 (closed with this object)
        self._end = _end_of_records(self._file)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = (0, self._at, self._end + len(_CLOSING))[whence] + offset
        return self._at

    def readinto(self, buffer) -> int:
        if self._at >= self._end:
            rest = _CLOSING[self._at - self._end :][: len(buffer)]
        else:
            self._file.seek(self._at)
            rest = self._file.read(min(len(buffer), self._end - self._at))
        buffer[: len(rest)] = rest
        self._at += len(rest)
        return len(rest)

    def close(self) -> None:
        self._file.close()
        super().close()


def _end_of_records(file) -> int:
    """Return where the last complete record ends that belongs to the data."""
    size = file.seek(0, io.SEEK_END)
    at = len(_MAGIC)
    while at + _HEAD <= size:
        file.seek(at)
        head = file.read(_HEAD)
        end = at + _HEAD + int.from_bytes(head[1:], "little")
        if end > size or head[0] in (0, _FOOTER, _DATA_END):
            break
        at = end
    return at
