"""What the other nodes say of themselves, and what the command side makes of it."""

import enum
from dataclasses import dataclass


class Health(enum.IntEnum):
    """How a node fares, the worse the higher."""

    FINE = 0
    WARNING = 1  # the robot goes on
    HOLD = 2  # the robot is kept still until this is over
    FAULT = 3  # the robot is kept still until somebody resets it


@dataclass
class Source:
    """A node that the command side depends on once it has been there."""

    seen: bool = False
    alive: bool = False
    health: Health = Health.FINE
    reason: str = ""


class Sources:
    """The nodes that the command side hears of, by name.

    One that was never there is not missed: plans may come from anywhere. One that is gone is.
    """

    def __init__(self):
        self._sources: dict[str, Source] = {}

    def _of(self, name: str) -> Source:
        return self._sources.setdefault(name, Source())

    def set_alive(self, name: str, alive: bool) -> None:
        """Note that a node lives, or that it is gone; a new one starts without the old one's troubles."""
        source = self._of(name)
        if not alive:
            source.health, source.reason = Health.FINE, ""
        source.alive = alive
        source.seen = source.seen or alive

    def say(self, name: str, health: Health, reason: str) -> None:
        """Note what a node says of itself."""
        source = self._of(name)
        source.health, source.reason = health, reason

    def forgive(self) -> None:
        """Forget faults; whoever still has one will say so again."""
        for source in self._sources.values():
            if source.health is Health.FAULT:
                source.health, source.reason = Health.FINE, ""

    def worst(self) -> tuple[Health, str]:
        """Return the worst there is, and the sentence that says it."""
        found = (Health.FINE, "")
        for name, source in self._sources.items():
            if source.seen and not source.alive and found[0] < Health.HOLD:
                found = (Health.HOLD, f"{name} is gone: standing still until it is back")
            if source.health > found[0]:
                found = (source.health, f"{name}: {source.reason}")
        return found
