"""Frames that the middleware has lost between the camera and us."""

from collections import deque

WINDOW = 60  # frames, come or lost, that are judged
TOO_MANY = 0.1  # of them


class Losses:
    """Counts frames that came and frames that did not."""

    def __init__(self):
        self.total = 0
        self._newest: deque[bool] = deque(maxlen=WINDOW)

    def came(self) -> None:
        """Note a frame."""
        self._newest.append(False)

    def lost(self, count: int) -> None:
        """Note that ``count`` frames were lost."""
        self.total += count
        self._newest.extend([True] * min(count, WINDOW))

    def bad(self) -> bool:
        """Return whether too many of the newest frames were lost."""
        return len(self._newest) >= WINDOW // 4 and sum(self._newest) > TOO_MANY * len(self._newest)

    def sentence(self, topic: str, camera: str) -> str:
        """Return what to tell people."""
        share = 100 * sum(self._newest) / len(self._newest)
        return f"{share:.0f} % of the frames on {topic} from {camera or 'the camera'} get lost on the way"
