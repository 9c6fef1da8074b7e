"""One process at a time writes an episode file: others are refused, and told who it is."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

from world_model_ros.data.atomic import unwritable
from world_model_ros.errors import UserError

RECORDER = "a recorder"
_OWNER = "owner.txt"  # in the folder of the parts: who has locked it
_PATIENCE = 0.5  # seconds: who only looks has the lock for a moment, too


def parts_of(path: Path) -> Path:
    """Return the folder in which the episodes of a file are until it is finished."""
    path = path.resolve() if path.is_symlink() else path
    return path.with_name(path.name + ".parts")


class WriteLock:
    """The right to write an episode file and its parts, until ``release`` or the end of the process.

    ``who`` is told to others, such as "a recorder". Raises UserError where another one has it.
    """

    def __init__(self, path: Path, who: str):
        self.folder = parts_of(path)
        self._descriptor = self._take(path)
        with contextlib.suppress(OSError):  # a full disk: it is locked all the same
            (self.folder / _OWNER).write_text(f"{who} (process {os.getpid()})")

    def _take(self, path: Path) -> int:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.folder, os.O_RDONLY)
            except OSError as error:
                raise unwritable(self.folder, error, "nothing was stored") from None
            taken = _flock(descriptor, fcntl.LOCK_EX)
            if taken and _same(descriptor, self.folder):
                return descriptor
            os.close(descriptor)
            if time.monotonic() > end:
                raise UserError(
                    f"{path} is being written by {_owner(self.folder)}: end that first, or choose another "
                    "file."
                )
            time.sleep(0.02)

    @property
    def held(self) -> bool:
        """Whether the folder is still there: nobody has removed or moved it."""
        return _same(self._descriptor, self.folder)

    def release(self) -> None:
        """Let others write. The folder goes where it is empty."""
        if self.held:
            with contextlib.suppress(OSError):  # it holds episodes
                (self.folder / _OWNER).unlink(missing_ok=True)
                self.folder.rmdir()
        os.close(self._descriptor)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()


def writer_of(path: Path) -> str:
    """Return who writes an episode file at this moment, such as "a recorder (process 71)", or ""."""
    folder = parts_of(path)
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return "" if _flock(descriptor, fcntl.LOCK_SH) else _owner(folder)
    finally:
        os.close(descriptor)


def _owner(folder: Path) -> str:
    try:
        return (folder / _OWNER).read_text() or "another program"
    except (OSError, ValueError):
        return "another program"


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks, such as some of a network: nobody can have one
        return True
    return True


def _same(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except OSError:
        return False
