"""One long-lived thread for work that would block a node's callbacks."""

import contextlib
import sys
import threading
import time
import traceback
from pathlib import Path

OVERLOAD = 6.0  # times the limit: a job counts as one that hangs then, however busy the computer is


def without_processor() -> float:
    """Return for how long the threads of this process have waited for a processor, in seconds.

    Zero where the kernel does not tell; Linux does.
    """
    nanoseconds = 0
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # a thread that has just ended
            nanoseconds += int(thread.read_text().split()[1])
    return 1e-9 * nanoseconds


class Worker:
    """Runs the newest job handed to it; one that waits is replaced by a newer one.

    ``work(job)`` runs in the thread; what it raises goes to ``failed(error, traceback as text)`` and the
    thread goes on.
    """

    def __init__(self, work, failed, name: str = "worker"):
        self._work = work
        self._failed = failed
        self._changed = threading.Condition()
        self._job = None
        self._stopping = False
        self._began: float | None = None
        self._slow: tuple[float, float] | None = None  # when a slow job began, what it had waited at first
        self.replaced = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def busy(self) -> float:
        """Return for how many seconds of real time the job at hand has been running; 0 without one."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def hangs(self, limit: float) -> bool:
        """Return whether the job at hand has been running for more than ``limit`` seconds.

        The time for which the process waited for a processor does not count: on a computer with too much to
        do a job is slow, and ends. To be called several times within the limit.
        """
        began, busy = self._began, self.busy()
        if began is None or busy < limit / 5:
            return False
        waited = without_processor()
        if self._slow is None or self._slow[0] != began:
            self._slow = began, waited
        waited = max(0.0, waited - self._slow[1])  # less where a thread has ended
        return busy - waited > limit or busy > OVERLOAD * limit

    def stack(self) -> str:
        """Return where the thread is now, as a traceback."""
        frame = sys._current_frames().get(self._thread.ident)
        return "".join(traceback.format_stack(frame)) if frame else ""

    def submit(self, job) -> None:
        """Hand over a job; after ``stop`` it is ignored."""
        with self._changed:
            self.replaced += self._job is not None
            self._job = job
            self._changed.notify()

    def stop(self, timeout: float) -> bool:
        """Take no more jobs and wait for the one that runs; return whether it ended in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self.alive

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._job is not None)
                if self._stopping:
                    return
                job, self._job = self._job, None
            self._began = time.monotonic()
            try:
                self._work(job)
            except Exception as error:  # the thread outlives every job
                self._report(error)
            finally:
                self._began = None

    def _report(self, error: Exception) -> None:
        try:
            self._failed(error, "".join(traceback.format_exception(error)))
        except Exception:  # the report itself failed
            traceback.print_exc()
