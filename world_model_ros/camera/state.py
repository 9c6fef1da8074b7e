"""How the camera fares, from what became of its frames."""

import math

from world_model_ros.safety.health import Health

SILENT = 1.0  # seconds without any frame that are worth a word
UNUSABLE = 0.5  # seconds in which frames came and none could be used that are worth a word


class CameraState:
    """Keeps the true cause of a camera's trouble for as long as it lasts.

    Times are seconds of a steady clock; reasons are sentences without the topic's name.
    """

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Start over."""
        self._heard = self._used = -math.inf  # when the newest frame came, and the newest one of use
        self._refused_since: float | None = None
        self._frozen = False
        self._reason = self._kind = self._warning = ""

    def used(self, now: float, warning: str = "") -> None:
        """Note a frame that was used; ``warning`` is about what it shows."""
        self._heard = self._used = now
        self._refused_since, self._frozen = None, False
        self._reason = self._kind = ""
        self._warning = warning

    def refused(self, now: float, kind: str, reason: str, frozen: bool = False) -> None:
        """Note a frame that was not used; the reason of one ``kind`` is kept as it was said first."""
        self._heard = now
        if self._refused_since is None:
            self._refused_since = now
        self._frozen = frozen
        if kind != self._kind:
            self._kind, self._reason = kind, reason

    def unusable(self, now: float) -> bool:
        """Return whether frames come, and none has been of use for a while."""
        return self._refused_since is not None and now - self._refused_since > UNUSABLE

    def verdict(self, now: float) -> tuple[Health, str]:
        """Return how the camera fares now, and why."""
        if now - self._heard > SILENT:
            if self._heard == -math.inf:
                return Health.FINE, ""  # who is missing is looked up elsewhere
            return Health.WARNING, f"no frame for more than {SILENT:g} s"
        if self._frozen:
            return Health.HOLD, self._reason
        if self.unusable(now):
            return Health.WARNING, f"no frame can be used: {self._reason}"
        return (Health.WARNING, self._warning) if self._warning else (Health.FINE, "")
