"""How the messages of one stream arrive: how many, how often, with which gaps, and whether that suffices."""

from collections import deque

from world_model_ros.data.robot import Stream

SECOND = 1_000_000_000
WINDOW = 2.0  # seconds over which a rate is measured
SETTLED = 1.0  # seconds of messages without which no rate is known
FEW = 4  # messages that the window and the settling time hold at least, at the declared rate
SHARE = 0.9  # of the declared rate that is enough
PAUSE = 3  # messages that may be missing in a row
LEAST_PAUSE = 0.3  # seconds: a busy machine delivers late


class Arrivals:
    """Notes when messages were received; all times are integer nanoseconds.

    ``patience``: seconds of silence that are no fault of a stream without a declared rate.
    """

    def __init__(self, stream: Stream, patience: float):
        self.stream = stream
        self.newest: int | None = None
        self.nodes: dict[bytes, str] = {}  # publisher -> its name, where that is known
        self.absent = ""  # why nothing can come, a phrase, such as that nobody publishes the topic
        rate = stream.rate
        self._window = round(max(WINDOW, FEW / rate if rate else 0) * SECOND)
        self._settled = max(SETTLED, (FEW - 1) / rate) if rate else 0.0
        self._pause = max(LEAST_PAUSE, PAUSE / rate) if rate else patience
        self._recent: deque[int] = deque()
        self._senders: dict[bytes, int] = {}  # publisher -> when its newest message came
        self._sender = b""  # of the newest message
        self._mixed_at = 0
        self.restart()

    def restart(self) -> None:
        """Begin to count anew, as an episode does; what is known about the rate is kept."""
        self.received = self.lost = self.rejected = 0
        self.largest_gap = 0  # ns
        self.reason = ""  # of the last rejection
        self.mixed: set[bytes] = set()  # publishers whose messages came in turns

    def arrived(self, received: int, publisher: bytes = b"") -> None:
        """Note a message that can be used; ``publisher`` where a stream must have one at a time."""
        self.received += 1
        if self.newest is not None:
            if received < self.newest - self._window:  # the clock was set back
                self._recent.clear()
                self._senders.clear()
            elif self.received > 1:
                self.largest_gap = max(self.largest_gap, received - self.newest)
        self.newest = received
        self._recent.append(received)
        while received - self._recent[0] > self._window:
            self._recent.popleft()
        if publisher:
            self._note_sender(received, publisher)

    def _note_sender(self, received: int, publisher: bytes) -> None:
        """Note who sent a message: one that was started again never takes turns with its former self."""
        before = self._senders.get(publisher)
        if publisher != self._sender and before is not None and received - before <= self._window:
            self.mixed |= {publisher, self._sender}
            self._mixed_at = received
        self._senders[publisher] = received
        self._sender = publisher

    @property
    def who(self) -> str:
        """Return how many nodes send in turns, with their names where they are known, or ""."""
        if not self.mixed:
            return ""
        names = sorted(self.nodes[sender] for sender in self.mixed if self.nodes.get(sender))
        return f"{len(self.mixed)} nodes at once" + (f" ({', '.join(names)})" if names else "")

    def reject(self, reason: str) -> None:
        """Note a message that cannot be used, and why."""
        self.rejected += 1
        self.reason = reason

    def age(self, now: int) -> float:
        """Return the seconds since the newest message; infinite before the first one."""
        return float("inf") if self.newest is None else (now - self.newest) / SECOND

    @property
    def rate(self) -> float:
        """Messages a second up to the newest one; 0 where there are not two."""
        passed = self._recent[-1] - self._recent[0] if self._recent else 0
        return (len(self._recent) - 1) * SECOND / passed if passed > 0 else 0.0

    def problem(self, now: int) -> str:
        """Return why the stream does not arrive as declared, a phrase with what is seen and needed, or ""."""
        stream, where = self.stream, self.stream.where
        needed = f", {stream.rate:g} Hz are declared" if stream.rate else ""
        if self.newest is None:
            if self.rejected:
                return f"no message of {where} can be used: {self.reason}"
            return f"{where} does not arrive{needed}: {self.absent or 'no message has come yet'}"
        if self.age(now) > self._pause:
            why = f": {self.absent}" if self.absent else ""
            return f"{where} has not arrived for {self.age(now):.1f} s{needed}{why}"
        if self.mixed and self.newest - self._mixed_at <= self._window:
            return f"{where} comes from {self.who}: end all but one"
        if not stream.rate:
            return ""
        seen = (self._recent[-1] - self._recent[0]) / SECOND
        if seen < self._settled * SHARE:
            return f"{where} has arrived for {seen:.1f} s only: its rate is known after {self._settled:.1f} s"
        if self.rate < SHARE * stream.rate:
            return (
                f"{where} arrives at {self.rate:.1f} Hz, {stream.rate:g} Hz are declared: correct the rate "
                "of the publisher or of the robot file"
            )
        return ""
