"""What can go wrong with a robot, on purpose: for tests, and for people who want to see what happens."""

from dataclasses import dataclass, replace

from world_model_ros.errors import UserError

KINDS = {
    "drop": "no picture leaves the camera",
    "freeze": "the same picture again and again, under new stamps",
    "delay": "pictures come late, with the stamps of when they were taken",
    "latency": "pictures come late, with the stamps of when they are sent",
    "encoding": "pictures are marked 16UC1",
    "size": "pictures are cut to half their height",
    "black": "pictures are black",
    "nan_joints": "joint positions are not numbers",
    "permute_joints": "joints come in another order, with their names",
    "flood": "a picture every millisecond",
}
MILLISECOND = 1_000_000


@dataclass(frozen=True)
class Frame:
    """The fields of a sensor_msgs/Image, rgb8."""

    stamp: int  # ns
    height: int
    width: int
    encoding: str
    data: bytes


class Faults:
    """Stands between the simulation and its topics; ``delay`` is in nanoseconds."""

    def __init__(self, kinds: str = "", delay: int = 500 * MILLISECOND):
        self._late: list[Frame] = []
        self._frozen: bytes | None = None
        self.set(kinds, delay)

    def set(self, kinds: str, delay: int) -> None:
        """Let these faults happen from now on, named with commas between. Raises UserError."""
        self.active = parse(kinds)
        self.delay = delay
        if "freeze" not in self.active:
            self._frozen = None
        if not self.active & {"delay", "latency"}:
            self._late = []

    def frames(self, frame: Frame, until: int) -> list[Frame]:
        """Return the frames that leave the camera now; the next one is taken at ``until``."""
        if "freeze" in self.active:
            self._frozen = self._frozen or frame.data
            frame = replace(frame, data=self._frozen)
        if "black" in self.active:
            frame = replace(frame, data=bytes(len(frame.data)))
        if "encoding" in self.active:
            frame = replace(frame, encoding="16UC1")
        if "size" in self.active:
            half = frame.height // 2
            frame = replace(frame, height=half, data=frame.data[: len(frame.data) // frame.height * half])
        frames = [frame]
        if "flood" in self.active:
            frames = [replace(frame, stamp=at) for at in range(frame.stamp, until, MILLISECOND)]
        if self.active & {"delay", "latency"}:
            self._late += frames
            frames = [late for late in self._late if late.stamp + self.delay <= frame.stamp]
            self._late = self._late[len(frames) :]
        if "latency" in self.active:
            frames = [replace(late, stamp=late.stamp + self.delay) for late in frames]
        return [] if "drop" in self.active else frames

    def joints(self, names: list[str], positions: list[float]) -> tuple[list[str], list[float]]:
        """Return names and positions as they are reported."""
        if "nan_joints" in self.active:
            positions = [float("nan")] * len(positions)
        if "permute_joints" in self.active:
            names, positions = names[::-1], positions[::-1]
        return names, positions


def parse(kinds: str) -> frozenset[str]:
    """Return the faults named in a text. Raises UserError for an unknown one."""
    named = frozenset(word.strip() for word in kinds.split(",") if word.strip())
    unknown = sorted(named - set(KINDS))
    if unknown:
        raise UserError(f"there is no fault {', '.join(unknown)}: choose among {', '.join(KINDS)}.")
    return named
