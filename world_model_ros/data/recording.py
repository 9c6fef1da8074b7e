"""Recording from live messages: readiness, episodes, a buffer of the newest seconds. Needs no ROS.

Messages become rows by the same ingest as those of bags (data/ingest.py), and are written by a thread of its
own (data/writer_thread.py). All times are integer nanoseconds of the clock that stamps received messages.
"""

import shutil
from collections import deque
from concurrent.futures import Future
from pathlib import Path

from world_model_ros.data.arrivals import SECOND, Arrivals
from world_model_ros.data.assembly import FAILURE, NO_LABEL, SUCCESS
from world_model_ros.data.ingest import Ingest, Rules
from world_model_ros.data.records import make_record
from world_model_ros.data.robot import RobotFile, Stream
from world_model_ros.data.words import plural
from world_model_ros.data.writer_thread import WriterThread
from world_model_ros.errors import UserError

PROBE = 2.0  # seconds of messages that must give rows before a recording begins
LEAST_ROOM = 10.0  # seconds that the disk must have room for
MOST_WAITING = 512 << 20  # bytes that may wait for a slow disk
FEW_ROWS = 6  # that the probe must have time for
_TOGETHER = 16  # rows that are written at once
_LEAST_NAME, _MOST_NAME = 21, 29  # characters of a stream's name in the table
_HEAD_OF_NAME = 7  # of a long one: "joints "
_ALL = 0.95  # of the seconds that are kept: more counts as all


class Recorder:
    """Takes all messages with ``take``; its commands start and end recordings.

    A command returns a sentence, or the Future of one, and raises UserError where it refuses. ``keep_last``:
    seconds that are kept in memory while nothing is recorded, for the command of that name. Raises UserError
    where ``path`` cannot be continued with this robot.
    """

    def __init__(self, robot: RobotFile, rules: Rules, path: Path, keep_last: float = 0.0):
        self.robot, self.rules, self.path, self.seconds_kept = robot, rules, path, keep_last
        probe = Ingest(robot, rules)
        self.row_period = robot.period * probe.steps_per_row
        self.arrivals = {stream.name: Arrivals(stream, rules.split_gap) for stream in robot.streams}
        source = f"recorded, robot {robot.name}"
        self.writer = WriterThread(path, {**probe.attributes, "source": source}, self.row_period)
        self._silence = rules.split_gap + rules.reorder
        self._recent: deque = deque()  # (received, record, or the stream and the reason of a rejection)
        self._judged = max(PROBE, FEW_ROWS * self.row_period)  # seconds of the newest messages
        self._recorded = 0  # up to when messages were in a recording
        self._ingest: Ingest | None = None  # while recording
        self._rows: list = []  # that are not handed on yet
        self._began = 0
        self._moved = 0  # when the newest row was decided
        self._frame_bytes = {camera.name: 0 for camera in robot.cameras}
        self._stored = 0  # bytes that joining the episodes needs again
        self._measure()

    @property
    def recording(self) -> bool:
        """Whether a recording is in progress."""
        return self._ingest is not None

    def take(self, stream: Stream, kind: str, message, received: int, publisher: bytes = b"") -> None:
        """Take a message of type ``kind`` (``Image`` ...) that came from ``publisher`` at ``received``."""
        arrivals = self.arrivals[stream.name]
        try:
            record = make_record(self.robot, stream, kind, message, received)
        except ValueError as error:
            arrivals.reject(str(error))
            self._remember(received, (stream.name, str(error)))
            if self._ingest is not None:
                self._ingest.reject(stream.name, str(error))
            return
        if record.content:
            arrivals.arrived(received, b"" if stream.role == "joints" else publisher)  # who may share them
        if stream.role == "camera":
            self._frame_bytes[stream.name] = record.content[""].nbytes
        self._remember(received, record)
        if self._ingest is not None:
            if rows := self._ingest.add(record):
                self._moved = received
            self._hand_on(rows)

    def _remember(self, received: int, item) -> None:
        self._recent.append((received, item))
        seconds = self._judged if self.recording else max(self._judged, self.seconds_kept)
        while abs(received - self._recent[0][0]) > seconds * SECOND:
            self._recent.popleft()

    def problems(self, now: int) -> list[str]:
        """Return what keeps a recording from beginning, a phrase each."""
        found = [problem for arrivals in self.arrivals.values() if (problem := arrivals.problem(now))]
        return found or self._probe()

    def _probe(self) -> list[str]:
        """Feed the newest messages through an ingest of their own: do they give rows?"""
        probe = Ingest(self.robot, self.rules)
        rows = self._feed(probe, self._judged)
        if problem := probe.problem():
            return [problem]
        if not rows:
            return ["the streams give no two steps in a row together: correct policies and rates"]
        return []

    def _feed(self, ingest: Ingest, seconds: float, after: int = 0) -> list:
        """Feed the messages of the newest seconds, those that came later than ``after``; return the rows."""
        rows = []
        newest = self._recent[-1][0] if self._recent else 0
        for received, item in self._recent:
            if newest - received > seconds * SECOND or received <= after:
                continue
            if len(item) == 2:
                ingest.reject(*item)
            else:
                rows += ingest.add(item)
        return rows + ingest.finish()

    def start(self, now: int) -> str:
        """Begin an episode. Refused while a stream is missing or slower than declared."""
        if self.recording:
            raise UserError("an episode is being recorded already: stop it first.")
        if problems := self.problems(now):
            raise UserError(f"not started: {'; '.join(problems)}.")
        self._check_room()
        self._ingest = Ingest(self.robot, self.rules)
        self._began = self._moved = now
        for arrivals in self.arrivals.values():
            arrivals.restart()
        return "recording"

    def _check_room(self) -> None:
        if removed := self.writer.removed:
            raise UserError(f"not started: {removed}.")
        self._measure()
        if self.seconds_left < LEAST_ROOM:
            raise UserError(
                f"not started: the disk has room for {self.seconds_left:.0f} s: free some space in "
                f"{self.path.absolute().parent}."
            )

    def stop(self, label: int = NO_LABEL) -> Future:
        """End the episode and keep it. The sentence tells what came and what the file holds."""
        if not self.recording:
            raise UserError("no episode is being recorded: start one first.")
        return self._end(label)

    def success(self) -> Future:
        """End the episode as a success; where none is recorded, label the last one."""
        return self.stop(SUCCESS) if self.recording else self.writer.label(SUCCESS)

    def failure(self) -> Future:
        """End the episode as a failure; where none is recorded, label the last one."""
        return self.stop(FAILURE) if self.recording else self.writer.label(FAILURE)

    def discard(self) -> Future:
        """End the episode and leave nothing of it."""
        if not self.recording:
            raise UserError("no episode is being recorded: delete_last deletes the last one.")
        self._ingest, self._rows = None, []
        self._recorded = self._recent[-1][0] if self._recent else 0
        return self.writer.discard()

    def delete_last(self) -> Future:
        """Delete the last episode of this session."""
        if self.recording:
            raise UserError("an episode is being recorded: stop or discard it first.")
        return self.writer.remove_last()

    def keep_last(self) -> Future:
        """Store the newest seconds as an episode."""
        if not self.seconds_kept:
            raise UserError("nothing is kept in memory: start the recorder with --keep-last SECONDS.")
        if self.recording:
            raise UserError("an episode is being recorded: its last seconds are in it.")
        self._check_room()
        self._ingest = Ingest(self.robot, self.rules)
        self._hand_on(self._feed(self._ingest, self.seconds_kept, self._recorded))
        return self._end(NO_LABEL)

    def check(self, now: int) -> tuple[str, Future] | None:
        """End a recording that cannot go on; return why, a sentence, and what becomes of it.

        Call it often. What came before a stream fell silent is kept.
        """
        if not self.recording:
            return None
        if self.writer.error:
            return "", self._end(NO_LABEL)
        ages = {name: self._age(arrivals, now) for name, arrivals in self.arrivals.items()}
        if max(ages.values()) > self._silence:
            silent = [
                f"{arrivals.stream.where} has not arrived for {ages[name]:.1f} s"
                + (f": {why}" if (why := arrivals.absent or arrivals.reason) else "")
                for name, arrivals in self.arrivals.items()
                if ages[name] > self.rules.split_gap
            ]
            return (
                f"{'; '.join(silent)}. The episode ends before that and is kept, without a label.",
                self._end(NO_LABEL),
            )
        stuck = (now - self._moved) / SECOND
        if stuck > self._silence + max(1.0, 3 * self.row_period):
            reasons = [f"{name}: {c.reason}" for name, c in self._ingest.counts.items() if c.reason]
            why = "; ".join(reasons) or "their stamps or policies do not fit together"
            return (
                f"the streams have given no row for {stuck:.1f} s ({why}). The episode ends before that and "
                "is kept, without a label.",
                self._end(NO_LABEL),
            )
        if self.writer.waiting > MOST_WAITING:
            return (
                f"the disk is too slow: {self.writer.waiting >> 20} MiB wait for it. The episode ends here "
                "and is kept, without a label.",
                self._end(NO_LABEL),
            )
        return None

    def _age(self, arrivals: Arrivals, now: int) -> float:
        return min(arrivals.age(now), (now - self._began) / SECOND)

    def _hand_on(self, rows: list) -> None:
        for row in rows:
            self._rows.append(row)
            if row.last or len(self._rows) >= _TOGETHER:
                self.writer.add(self._rows)
                self._rows = []

    def _end(self, label: int) -> Future:
        ingest, self._ingest = self._ingest, None
        self._recorded = self._recent[-1][0] if self._recent else 0
        self._hand_on(ingest.finish())
        report = [ingest.report()]
        report += [
            f"{name}: it came from {arrivals.who}, and the rows mix what they sent: delete the episode, "
            "and end all but one"
            for name, arrivals in self.arrivals.items()
            if arrivals.mixed
        ]
        return self.writer.end(label, "\n".join(report))

    def close(self) -> str:
        """Keep the episode in progress, and make the one file; return where it is."""
        if self.recording:
            self._end(NO_LABEL)
        return self.writer.close()

    def _measure(self) -> None:
        """Note the size of what is stored: joining the episodes at the end needs as much again."""
        files = [self.path, *self.writer.writer.parts.glob("*.h5")]
        self._stored = sum(file.stat().st_size for file in files if file.is_file())

    @property
    def bytes_per_second(self) -> float:
        """What a recording writes, as far as the cameras' frames are known."""
        numbers = len(self.robot.proprio_names) + len(self.robot.actions.names)
        return (sum(self._frame_bytes.values()) + 4 * numbers) / self.row_period

    @property
    def seconds_left(self) -> float:
        """For how long the disk has room, the joining of the episodes included."""
        try:
            free = shutil.disk_usage(self.writer.writer.parts).free
        except OSError:  # the disk is gone: the next write says so
            return 0.0
        written = self.bytes_per_second * self.row_period * self._ingest.steps if self._ingest else 0
        return max(0.0, (free - self._stored - written) / (2 * self.bytes_per_second))

    def table(self, now: int) -> list[str]:
        """Return a line for each stream: what was received and written, the rate, the largest gap."""
        names = [_shortened(name) for name in self.arrivals]
        width = max(_LEAST_NAME, *map(len, names)) + 1
        lines = [
            f"{'stream':<{width}}{'received':>9}{'lost':>6}{'written':>9}{'Hz':>8}{'declared':>9}{'gap s':>8}"
        ]
        for shown, (name, arrivals) in zip(names, self.arrivals.items(), strict=True):
            declared = f"{arrivals.stream.rate:g}" if arrivals.stream.rate else "-"
            rate = arrivals.rate if arrivals.age(now) < self._silence else 0.0
            written = self._ingest.taken(name) if self._ingest else "-"
            note = f"  {arrivals.reason or arrivals.absent}" if arrivals.rejected or arrivals.absent else ""
            lines.append(
                f"{shown:<{width}}{arrivals.received:>9}{arrivals.lost:>6}{written:>9}{rate:>8.1f}{declared:>9}"
                f"{arrivals.largest_gap / SECOND:>8.3f}{note}"
            )
        return lines

    def state(self, now: int) -> str:
        """Return in one line what is going on."""
        if removed := self.writer.removed:
            return f"not ready: {removed}"
        known = all(self._frame_bytes.values())
        room = f"disk: {f'{self.seconds_left / 60:.0f} minutes' if known else 'room known with the frames'}"
        if self.recording:
            return f"recording, {(now - self._began) / SECOND:.1f} s; {room}"
        found = [p for arrivals in self.arrivals.values() if (p := arrivals.problem(now))]
        what = f"not ready: {found[0]}" if found else "ready"
        if self.seconds_kept:
            kept = self.seconds_there
            seconds = f"{self.seconds_kept:g}" if kept > _ALL * self.seconds_kept else f"{kept:.1f}"
            room += f"; the last {seconds} s are kept in {self.memory_kept / 1e6:.0f} MB"
        return f"{plural(self.writer.episodes, 'episode')}; {room}; {what}"

    @property
    def seconds_there(self) -> float:
        """How many of the newest seconds keep_last would store: none that were in a recording."""
        if not self._recent:
            return 0.0
        seconds = (self._recent[-1][0] - max(self._recent[0][0], self._recorded)) / SECOND
        return min(max(0.0, seconds), self.seconds_kept)

    @property
    def memory_kept(self) -> int:
        """Bytes of memory that the newest seconds take at most, as far as the cameras' frames are known."""
        frames = sum(c.rate * self._frame_bytes[c.name] for c in self.robot.cameras)
        return round(frames * max(self._judged, self.seconds_kept))


def _shortened(name: str) -> str:
    """Return a stream's name, of a long one both ends: the numbers beside it must fit on a terminal."""
    tail = _MOST_NAME - _HEAD_OF_NAME - 1
    return name if len(name) <= _MOST_NAME else f"{name[:_HEAD_OF_NAME]}…{name[-tail:]}"
