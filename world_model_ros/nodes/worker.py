"""One long-lived thread for work that would block a node's callbacks."""

import sys
import threading
import time
import traceback


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
