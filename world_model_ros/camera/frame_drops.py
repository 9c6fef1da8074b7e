"""Frames that the middleware has lost between the camera and this process."""

from collections import deque

WINDOW = 60  # the newest frames, received or lost, that count
TOO_MANY = 0.1  # share of them; over once it is below half of that


class FrameDropMonitor:
    """Counts received and lost frames, and warns where too many are lost."""

    def __init__(self):
        self.total = 0
        self._newest: deque[bool] = deque(maxlen=WINDOW)
        self._bad = False

    def came(self) -> None:
        """Note a received frame."""
        self._newest.append(False)

    def lost(self, count: int) -> None:
        """Note that ``count`` frames were lost."""
        self.total += count
        self._newest.extend([True] * min(count, WINDOW))

    def bad(self) -> bool:
        """Return whether too many of the newest frames were lost."""
        bound = TOO_MANY / 2 if self._bad else TOO_MANY
        self._bad = len(self._newest) >= WINDOW // 4 and sum(self._newest) > bound * len(self._newest)
        return self._bad

    def sentence(self, topic: str, camera: str) -> str:
        """Return the warning, for people."""
        share = 100 * sum(self._newest) / len(self._newest)
        return f"{share:.0f} % of the frames on {topic} from {camera or 'the camera'} get lost on the way"
