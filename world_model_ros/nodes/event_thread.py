"""Whether Fast DDS's event thread, which does all that is due at a time, still runs in this process.

In Fast DDS, up to 3.2.3 at least, it can wait for ever for a thread that waits for it, when a publisher
elsewhere ends while an announcement is due (eProsima/Fast-DDS issue 6502). From then on the process hears of
no new publisher, so of no emergency stop that a new one sends, and repeats nothing that was lost.
"""

import platform
from pathlib import Path

EVENT_THREAD = "dds.ev"  # how the names of these threads begin
FUTEX = {"x86_64": "202", "aarch64": "98"}  # the number of Linux's futex call
TIMEOUT = 4  # where its timeout is in /proc/<process>/syscall
LOOK = 0.25  # seconds between two looks
STUCK = 12  # looks in a row that find a thread where it was: of locks that are released, none is held so long


class EventThreads:
    """Looks at this process's event threads; another middleware has none, and they are never stuck."""

    def __init__(self):
        self._next = 0.0  # when to look again
        self._looks: dict[Path, tuple[str, int]] = {}  # thread -> where it waits, for how many looks

    def stuck(self, now: float) -> bool:
        """Return whether one has waited for a lock for about 3 s; ``now`` is in seconds of a steady clock."""
        if now < self._next:
            return False
        self._next = now + LOOK
        if not self._looks:
            self._looks = dict.fromkeys(event_threads(), ("", 0))
        for thread, (before, looks) in self._looks.items():
            place = waits_without_end(thread)
            self._looks[thread] = place, looks + 1 if place and place == before else 0
        return any(looks >= STUCK for _, looks in self._looks.values())


def event_threads() -> list[Path]:
    """Return the folders in /proc of this process's event threads."""
    return [thread for thread in Path("/proc/self/task").glob("*") if _name(thread).startswith(EVENT_THREAD)]


def waits_without_end(thread: Path) -> str:
    """Return where a thread waits for a lock, and how often it has waited before; "" where it does not.

    Only a lock is waited for without a timeout: for what is due next there is one.
    """
    call = _read(thread / "syscall").split()
    if len(call) <= TIMEOUT or call[0] != FUTEX.get(platform.machine()) or int(call[TIMEOUT], 16):
        return ""
    status = _read(thread / "status")
    return " ".join([*call, *(line for line in status.splitlines() if line.startswith("voluntary"))])


def _name(thread: Path) -> str:
    return _read(thread / "comm")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the thread has ended, or this is not Linux
        return ""
