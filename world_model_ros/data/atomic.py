"""Atomic writing of files: complete or absent, also on a full disk."""

import contextlib
import errno
import io
import os
import signal
import tempfile
import threading
from pathlib import Path

import h5py

from world_model_ros.errors import UserError
from world_model_ros.model.strict import json_text

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Sink(io.FileIO):
    """A file for HDF5 to write to. HDF5 aborts the process on closing a file in which a write failed.

    So a failed write is hidden from it: ``error`` keeps the exception, and nothing is written any more.
    """

    error: OSError | None = None

    def write(self, data) -> int:
        """Write all of ``data``, unless a write has failed already."""
        rest = whole = memoryview(data).cast("B")
        while self.error is None and len(rest):
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.error = error
        return len(whole)

    def truncate(self, size=None) -> int:
        """Cut or extend the file, unless a write has failed already."""
        try:
            return super().truncate(size) if self.error is None else size
        except OSError as error:
            self.error = error
            return size

    def check(self) -> None:
        """Raise the error of the failed write, if there was one."""
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def _interrupts_deferred():
    """Keep a Ctrl-C that comes in the block, until its end or a call of what is yielded.

    HDF5 reaches ``_Sink`` through h5py, which drops an exception on the way back: Ctrl-C would do nothing.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield lambda: None  # no signal interrupts this thread
        return
    came = threading.Event()

    def act() -> None:
        if came.is_set():
            came.clear()
            handler(signal.SIGINT, None)

    signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield act
    finally:
        signal.signal(signal.SIGINT, handler)
        act()


@contextlib.contextmanager
def written(path: Path, safe: str, backup: Path | None = None):
    """Open an HDF5 file that replaces ``path`` after the block, complete; on an error nothing changes.

    Yields the file and a check to call after each large write, where Ctrl-C takes effect. The old file stays
    as ``backup`` where one is named. Raises UserError where writing fails; its text ends with ``safe``, which
    says what is not lost.
    """
    temporary = path.with_name(path.name + ".tmp")
    sink = None
    try:
        with _interrupts_deferred() as act_on_interrupt, _Sink(temporary, "w+") as sink:

            def check() -> None:
                sink.check()
                act_on_interrupt()

            with h5py.File(sink, "w") as file:
                yield file, check
            check()
            os.fsync(sink.fileno())
        if backup is not None:
            _keep(path, backup)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if sink is not None and sink.error is None and error.errno is None:  # not an error of the disk
            raise
        raise unwritable(path, (sink and sink.error) or error, safe) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _keep(path: Path, backup: Path) -> None:
    """Give the file at ``path`` a second name, or move it there where the disk has no hard links."""
    try:
        os.link(path, backup)
    except FileExistsError:
        raise
    except OSError:
        os.rename(path, backup)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the disk can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def unwritable(path: Path, error: OSError, safe: str) -> UserError:
    """Return what tells why a file cannot be written, with the remedy, and what is ``safe`` all the same."""
    if not path.parent.is_dir():
        return UserError(f"{path} cannot be written: {path.parent} was removed or moved, with all in it.")
    full = error.errno in _FULL
    remedy = "free some space there" if full else "see to the disk, and to the right to write there"
    return UserError(f"{path} cannot be written ({error.strerror}): {remedy}; {safe}.")


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, completely or not at all. Raises UserError where writing fails."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, "utf-8")
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error, "nothing was stored") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, values: dict) -> None:
    """Write ``values`` as JSON, whole or not at all; infinite numbers and NaN become null.

    Raises UserError where the disk does not take it.
    """
    write_text(path, json_text(values, indent=2) + "\n")


def check_target(option: str, path: Path) -> None:
    """Raise UserError where no file can be written at ``path``, which was given by ``option``."""
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{option} {path}: there is no folder {folder}, make it first.")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: name a file.")
    try:  # permissions alone do not tell: root has them all, a read-only disk has them too
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}-", dir=folder))
    except OSError as error:
        raise UserError(
            f"{option} {path}: nothing can be written in {folder} ({error.strerror}): choose another folder."
        ) from None
