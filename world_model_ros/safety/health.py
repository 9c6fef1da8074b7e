"""Health reports of the other nodes, missing heartbeats, and the HOLDs that monitor_node asks for."""

import enum
import math
from collections import deque
from dataclasses import dataclass, field

ENCODER, PLANNER, MONITOR, COMMAND = "encoder_node", "planner_node", "monitor_node", "command_node"
SECOND = 1_000_000_000
LONGEST_LOOK = 0.2  # seconds that count between two looks: a longer time is this process being late
MEMORY = 10.0  # seconds that a late heartbeat is remembered
SILENCES = 3.0  # a node is missed after this many of its longest recent silences
LONGEST_LEASE = 2.0  # seconds
GONE = 1.0  # seconds without a heartbeat after which another instance counts as ended
REPEATED_HOLDS = 3  # of monitor_node, within the window, that are a fault


class Health(enum.IntEnum):
    """The health of a node; the higher, the worse."""

    FINE = 0
    WARNING = 1  # the robot goes on
    HOLD = 2  # the robot is kept still as long as this lasts
    FAULT = 3  # the robot is kept still until somebody resets it


@dataclass
class Source:
    """A node that the command side depends on once it has been active."""

    heard: float | None = None  # when its newest heartbeat came, in seconds that this process ran
    gaps: deque = field(default_factory=deque)  # (heard, seconds) of its recent heartbeats
    required: bool = False  # it was active once
    state: str = "active"  # or inactive, ended
    health: Health = Health.FINE
    reason: str = ""
    values: dict = field(default_factory=dict)
    confirmed: bool = True  # has reported since its fault was cleared
    missed: str = ""  # why it is missed


class Sources:
    """The nodes that report their health, by name; times are seconds of a steady clock.

    A node that was active once is missed when its heartbeat stops. One that was never active is not: plans
    may come from another program.
    """

    def __init__(self, lease: float = 0.25):
        self.lease = lease
        self._sources: dict[str, Source] = {}
        self._last: float | None = None  # the newest look at the clock
        self._awake = 0.0

    def look(self, steady: float) -> None:
        """Let time pass. A long time since the last look does not count: this process itself was late."""
        if self._last is not None:
            self._awake += min(max(0.0, steady - self._last), LONGEST_LOOK)
        self._last = steady
        for name, source in self._sources.items():
            source.missed = self._missed(name, source)

    def report(
        self,
        name: str,
        steady: float,
        health: Health,
        reason: str = "",
        state: str = "active",
        values: dict | None = None,
    ) -> None:
        """Take a node's health message; ``values`` are its further pairs."""
        self.look(steady)
        source = self._sources.setdefault(name, Source())
        if (values or {}).get("instance") != source.values.get("instance"):
            source.gaps.clear()  # the time between two processes is no late heartbeat
        elif source.heard is not None and source.state == "active":
            source.gaps.append((self._awake, self._awake - source.heard))
        while source.gaps and source.gaps[0][0] < self._awake - MEMORY:
            source.gaps.popleft()
        source.heard, source.state, source.missed, source.confirmed = self._awake, state, "", True
        source.health, source.reason, source.values = health, reason, values or {}
        source.required = source.required or state == "active"
        source.missed = self._missed(name, source)

    def _missed(self, name: str, source: Source) -> str:
        if not source.required:
            return ""
        if source.state != "active":
            return (
                f"{name} was ended" if source.state == "ended" else f"{name} is not active"
            ) + ": standing still until it is active again"
        silence = self._awake - source.heard
        longest = max((gap for _, gap in source.gaps), default=0.0)
        # A heartbeat that came late on a busy computer may come as late again.
        if silence <= max(self.lease, min(LONGEST_LEASE, SILENCES * longest)):
            return ""
        # The age is the one at which it was noticed: a sentence that counts up would be logged each time.
        return source.missed or f"{name} does not respond (last heartbeat {silence:.1f} s ago)"

    def watched(self) -> list[str]:
        """Return the names of the nodes that were active once: they are missed when they fall silent."""
        return sorted(name for name, source in self._sources.items() if source.required)

    def clear_faults(self) -> None:
        """Clear the faults: a node that still has one repeats it, and until it has reported nothing moves."""
        for source in self._sources.values():
            if source.health is Health.FAULT:
                source.health, source.reason, source.confirmed = Health.FINE, "", False

    def worst(self, overridden: str = "") -> tuple[Health, str, str]:
        """Return the worst health, the node's name, and the sentence that tells why.

        A HOLD that the node ``overridden`` asks for is left out; that it does not respond is not.
        """
        worst = (Health.FINE, "", "")
        for name, source in self._sources.items():
            health, sentence = source.health, f"{name}: {source.reason}"
            if source.missed and source.health < Health.FAULT:
                health, sentence = Health.HOLD, source.missed
            elif name == overridden and source.health is Health.HOLD:
                health = Health.WARNING
            if health > worst[0]:
                worst = (health, name, sentence)
        return worst

    def unconfirmed(self) -> str:
        """Return the name of a node whose fault was cleared and that has not reported since, or ""."""
        return next((n for n, s in self._sources.items() if not s.confirmed and not s.missed), "")

    def holds(self, name: str) -> bool:
        """Return whether a node that responds asks for a HOLD."""
        source = self._sources.get(name)
        return source is not None and not source.missed and source.health is Health.HOLD

    def trouble(self, name: str) -> str:
        """Return what is wrong with one node, or ""."""
        source = self._sources.get(name)
        if source is None:
            return ""
        if source.missed:
            return source.missed
        return f"{name}: {source.reason}" if source.health > Health.FINE else ""

    def values(self, name: str) -> dict:
        """Return the further pairs of a node's newest health message; empty while it is not active."""
        source = self._sources.get(name)
        return {} if source is None or source.state != "active" else source.values


class Rivals:
    """Other processes that command the same robot under the same name.

    They are noticed by their heartbeats: those of a killed process end at once, while its endpoints stay in
    the graph for seconds, and a respawned node must not wait for them.
    """

    def __init__(self):
        self._heard = -math.inf
        self.elsewhere = ""  # one that publishes the same command topic from another namespace

    def report(self, steady: float) -> None:
        """Note the heartbeat of another instance."""
        self._heard = steady

    def present(self, steady: float) -> bool:
        """Return whether there is another instance now."""
        return steady - self._heard <= GONE


class AnomalyHolds:
    """The HOLDs that monitor_node asks for: a person may override one, and repeated ones are a fault.

    The cause of such a HOLD cannot change while the robot stands, or comes back whenever it moves.

    Times are integer nanoseconds on the clock that ages are counted on; the settings are in seconds.
    """

    def __init__(self, override_time: float = 5.0, window: float = 20.0):
        self.override_time, self.window = override_time, window
        self._until: int | None = None  # the end of an override
        self._began: deque[int] = deque(maxlen=REPEATED_HOLDS)  # of the holds that ended a motion

    def override(self, now: int) -> None:
        """Ignore the hold for ``override_time``: a person has looked at the robot."""
        self._until = now + round(self.override_time * SECOND)

    def overridden(self, now: int) -> bool:
        """Return whether the hold does not count now."""
        if self._until is not None and not 0 <= self._until - now <= self.override_time * SECOND:
            self._until = None  # over, or the clock was set back
        return self._until is not None

    def began(self, now: int) -> str:
        """Note a hold that ended a motion; return why this is a fault, or ""."""
        self._began.append(now)
        if len(self._began) < REPEATED_HOLDS or not 0 <= now - self._began[0] <= self.window * SECOND:
            return ""
        return (
            f"monitor_node held the robot {REPEATED_HOLDS} times within {self.window:g} s, each time after "
            "it had moved"
        )

    def reset(self) -> None:
        """Drop the holds so far, and end an override."""
        self._until = None
        self._began.clear()
