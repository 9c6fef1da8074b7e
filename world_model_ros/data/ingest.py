"""Records of all streams, as they arrive, become rows of episodes: the one way in, live or from a bag.

A row is due at a tick of the clock: every ``period`` from the first frame on (``rate``), or with every frame
of the model's camera (``camera``). Each stream gives a row what its policy chooses (data/robot.py). The
action of a control step is what was commanded from its tick to the next one: velocities are averaged over
that time, each weighted by how long it was in force; of positions it is the one in force at the tick.

The same messages give the same rows, whatever the order in which those of different streams arrive: a tick
is decided when every message that matters to it has come, ``split_gap + reorder`` seconds later. That much is
kept in memory, and no more. All times are integer nanoseconds.
"""

import bisect
import difflib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from world_model_ros.data.records import Record
from world_model_ros.data.robot import Policy, RobotFile, Stream
from world_model_ros.data.words import between, plural
from world_model_ros.errors import UserError

SECOND = 1_000_000_000
CLOCKS = ("rate", "camera")
APART = 0.5  # seconds: delays of two streams that differ by more are noted: their clocks may
MATCHING = 0.02  # by which a camera's period may differ from whole control steps
LIMIT_NOISE = 1e-4  # of the limits' range: rounding is not outside


@dataclass(frozen=True)
class Rules:
    """How streams become rows."""

    clock: str = "rate"
    split_gap: float = 1.0  # seconds: an episode ends where a stream is silent for longer
    reorder: float = 0.5  # seconds by which a message may come later than newer ones


class Row(NamedTuple):
    """One row of an episode.

    columns: pixels and pixels_<camera> uint8 (H, W, 3), action float32 (steps_per_row * dim,), NaN in the
    last row, proprio float32 (P,).
    """

    first: bool
    last: bool
    time: int
    columns: dict[str, np.ndarray]


@dataclass
class Counts:
    """What became of one stream's messages."""

    messages: int = 0
    others: int = 0  # about other joints
    late: int = 0  # came when their time was over, or are far out of order
    unstamped: int = 0
    rejected: int = 0
    reason: str = ""  # of the first rejection
    earliest: int | None = None
    latest: int | None = None
    stamped: int = 0  # whose stamps are taken, not the receive time
    lags: int = 0  # ns, between their stamps and their arrivals, all together
    largest_gap: int = 0
    newest: int | None = None  # that was taken, since time began
    gaps: int = 0
    passed: int = 0  # ns, in all gaps

    @property
    def lag(self) -> float | None:
        """Seconds from stamp to arrival, on average; None where the receive time is taken."""
        return self.lags / self.stamped / SECOND if self.stamped else None

    @property
    def rate(self) -> float:
        """Messages a second; 0 where there are not two."""
        return self.gaps * SECOND / self.passed if self.passed else 0.0


@dataclass
class _Group:
    """The streams that together give a row one of its values: a camera, the joints, the actions."""

    name: str
    keys: tuple[str, ...]
    policy: Policy
    waiting: list = field(default_factory=list)  # (time, received, number, stream, content), sorted
    current: dict = field(default_factory=dict)  # key -> (time, value), the newest taken
    newest: int | None = None
    seen: set = field(default_factory=set)  # keys that any message had
    held: int = 0  # steps
    dropped: int = 0

    def forget(self) -> None:
        self.waiting.clear()
        self.current.clear()
        self.newest = None

    def oldest(self) -> int | None:
        """Return the time of the oldest value in use, None where one is missing."""
        if len(self.current) < len(self.keys):
            return None
        return min(time for time, _ in self.current.values())

    def silent(self, previous: int, until: int, gap: int) -> str | None:
        """Return the key of a value in use, which the tick before had too, before a pause over ``gap``.

        ``previous`` is that tick, ``until`` the newest time of all; None where there is no such key.
        """
        open_keys = {key for key in self.keys if self.current[key][0] <= previous}
        for time, _, _, _, content in self.waiting:
            if not open_keys:
                return None
            for key in open_keys & content.keys():
                if time - self.current[key][0] > gap:
                    return key
                open_keys.discard(key)
        return next((key for key in open_keys if until - self.current[key][0] > gap), None)

    def usable(self, tick: int, previous: int) -> bool:
        """Return whether the policy has a value for ``tick``; ``previous`` is the tick before."""
        oldest = self.oldest()
        if oldest is None:
            return False
        if self.policy.kind == "as-of":
            return tick - oldest <= round(self.policy.tolerance * SECOND)
        return oldest > previous if self.policy.kind == "drop" else True

    def values(self) -> np.ndarray:
        """Return the numbers in use, (fields, keys)."""
        return np.array([self.current[key][1] for key in self.keys], np.float64).T


@dataclass
class _Pause:
    """Why an episode ended: a value that did not come in time."""

    group: _Group
    key: str
    silent: bool  # for longer than the gap that splits; else the policy has no value
    since: int
    episode: int  # that ended, in ``Ingest.lengths``
    until: int | None = None


class Ingest:
    """Takes records one by one with ``add``, and returns the rows that are decided; ``finish`` ends it.

    ``time_option``: whether the person can choose the timeline with --time, too. Raises UserError where the
    rules do not fit the robot.
    """

    def __init__(self, robot: RobotFile, rules: Rules | None = None, time_option: bool = False):
        self.robot, self.rules, self._time_option = robot, rules or Rules(), time_option
        self.counts = {stream.name: Counts() for stream in robot.streams}
        self.steps = 0  # rows
        self.lengths: list[int] = []  # rows of each finished episode
        self.too_short = 0  # episodes of a single row, left out
        self.outside = np.zeros(len(robot.actions.names), np.int64)  # control steps beyond the limits
        self.steps_per_row = _steps_per_row(robot, self.rules)
        self._streams: dict[str, Stream] = {stream.name: stream for stream in robot.streams}
        self._groups = {camera.name: _Group(camera.name, ("",), camera.policy) for camera in robot.cameras}
        self._cameras = tuple(self._groups.values())
        self._clock = self._groups[robot.model_camera]
        self._joints = _Group("joints", robot.joints.names, robot.joints.policy) if robot.joints else None
        if self._joints:
            self._groups["joints"] = self._joints
        actions = robot.actions
        self._actions = _Group("actions", actions.names, actions.source.policy)
        self._groups["actions"] = self._actions
        self._period = round(robot.period * SECOND)
        self._row = self._period * self.steps_per_row
        self._gap = round(self.rules.split_gap * SECOND)
        self._reorder = round(self.rules.reorder * SECOND)
        low, high = np.array(actions.low), np.array(actions.high)
        self._low, self._high = low - LIMIT_NOISE * (high - low), high + LIMIT_NOISE * (high - low)
        self._shapes: dict[str, tuple] = {}
        self._foreign: set[str] = set()  # names in messages, while some of ours are missing
        self._number = 0
        self._blamed: list[_Group] = []  # why the tick ``_failed`` has no row
        self._failed = 0
        self._pauses: list[_Pause] = []  # that ended an episode
        self._open: list[_Pause] = []  # of those, the ones that go on
        self._set_back = 0  # times that the clock was set back within an episode
        self._restart()

    def _restart(self) -> None:
        """Forget all messages: time begins anew."""
        for group in self._groups.values():
            group.forget()
        for counts in self.counts.values():
            counts.newest = None
        self._newest: int | None = None
        self._done: int | None = None  # up to when everything is decided
        self._pending: tuple[int, dict] | None = None  # the newest row, whose action is not known yet
        self._length = 0  # rows of the episode that are out
        self._open = []
        self._late: set[str] = set()  # streams that sent late messages since the last timely one

    @property
    def attributes(self) -> dict:
        """What an episode file of these rows says about itself."""
        policies = [f"{group.name} {group.policy}" for group in self._groups.values()]
        times = [f"{stream.name} {stream.time}" for stream in self._streams.values()]
        return {
            **self.robot.attributes,
            "steps_per_row": self.steps_per_row,
            "clock": self.rules.clock,
            "split_gap": self.rules.split_gap,
            "policies": policies,
            "times": times,
        }

    def reject(self, stream: str, reason: str) -> None:
        """Note a message that is no record, and why."""
        counts = self.counts[stream]
        counts.rejected += 1
        counts.reason = counts.reason or reason

    def add(self, record: Record) -> list[Row]:
        """Take a record; return the rows that it decides, in order."""
        stream, counts = self._streams[record.stream], self.counts[record.stream]
        group = self._groups[stream.name if stream.role == "camera" else stream.role]
        if len(group.seen) < len(group.keys):
            group.seen.update(record.content)
            self._foreign.update(record.names)
        if not record.content:
            counts.others += 1
            return []
        header = stream.time == "header" and record.stamp is not None
        time = record.stamp if header else record.received
        if header and not time:
            counts.unstamped += 1
            return []
        if stream.role == "camera" and (reason := self._other_shape(record)):
            self.reject(stream.name, reason)
            return []
        counts.messages += 1
        counts.earliest = time if counts.earliest is None else min(counts.earliest, time)
        if header:
            counts.stamped += 1
            counts.lags += record.received - time
        counts.latest = time if counts.latest is None else max(counts.latest, time)
        over = self._done is not None and time <= self._done
        if over or (group.newest is not None and time < group.newest - self._reorder):
            counts.late += 1
            self._late.add(stream.name)
            if self._late < set(self._streams):
                return []
            rows = self.finish()  # every stream is late: the clock was set back
            self._set_back += bool(rows)
            counts.late -= 1
        else:
            rows = []
        self._late.clear()
        self._number += 1
        bisect.insort(group.waiting, (time, record.received, self._number, stream.name, record.content))
        group.newest = time if group.newest is None else max(group.newest, time)
        self._newest = time if self._newest is None else max(self._newest, time)
        return rows + self._decide(self._newest - self._gap - self._reorder, ending=False)

    def finish(self) -> list[Row]:
        """Return the remaining rows; records that follow begin a new episode."""
        if self._newest is None:
            return []
        rows = self._decide(self._newest, ending=True) + self._end()
        self._account(self._newest)
        for group in self._groups.values():
            self._take(group, self._newest)
        self._restart()
        return rows

    def _other_shape(self, record: Record) -> str:
        shape = record.content[""].shape
        first = self._shapes.setdefault(record.stream, shape)
        if shape == first:
            return ""
        return (
            f"it is {shape[1]} x {shape[0]}, the first one was {first[1]} x {first[0]}: set the camera's "
            "size in the robot file, or record with one resolution"
        )

    def _decide(self, limit: int, ending: bool) -> list[Row]:
        """Return the rows of all ticks up to ``limit``."""
        rows = []
        while (tick := self._next_tick(ending)) is not None and tick <= limit:
            rows += self._tick(tick)
        if self._pending is None and (self._done is None or self._done < limit):
            self._done = limit
            for group in self._groups.values():
                self._take(group, limit)
        return rows

    def _next_tick(self, ending: bool) -> int | None:
        frames = (item[0] for item in self._clock.waiting)
        if self._pending is None:
            return next(frames, None)
        last = self._pending[0]
        if self.rules.clock == "rate":
            return last + self._row
        following = next((time for time in frames if 2 * (time - last) >= self._row), None)
        if following is None:
            return None if ending else last + self._row
        missing = max(1, round((following - last) / self._row))  # frames that did not come have a tick, too
        return last + (following - last) // missing

    def _tick(self, tick: int) -> list[Row]:
        """Decide one tick: return the row before it, whose action is known now."""
        before = self._pending
        previous = tick - self._row if before is None else before[0]
        action = None if before is None else self._action(before[0], tick)
        for group in self._groups.values():
            self._take(group, tick)
        self._account(tick)
        self._done = tick
        self._blamed = [
            group
            for group in self._groups.values()
            if not group.usable(tick, previous) or group.silent(previous, self._newest, self._gap) is not None
        ]
        if self._blamed:
            self._failed = tick
            if self._length:
                self._open += (pauses := [self._pause(group, previous) for group in self._blamed])
                self._pauses += pauses
            return self._end()
        for group in self._groups.values():
            group.held += group.oldest() <= previous
        rows = [] if before is None else [self._emit(action)]
        self._pending = tick, self._columns()
        return rows

    def _pause(self, group: _Group, previous: int) -> _Pause:
        """Return why ``group`` ends the episode in progress."""
        key = group.silent(previous, self._newest, self._gap)
        silent = key is not None
        if not silent:
            key = min(group.keys, key=lambda key: group.current[key][0])
        return _Pause(group, key, silent, group.current[key][0], len(self.lengths))

    def _take(self, group: _Group, until: int) -> None:
        """Take the waiting values of a group up to and including ``until`` into use."""
        count = bisect.bisect_right(group.waiting, until, key=lambda item: item[0])
        for time, _, _, stream, content in group.waiting[:count]:
            self._use(group, time, stream, content)
        del group.waiting[:count]

    def _use(self, group: _Group, time: int, stream: str, content: dict) -> None:
        counts = self.counts[stream]
        if counts.newest is not None:
            counts.gaps += 1
            counts.passed += time - counts.newest
            counts.largest_gap = max(counts.largest_gap, time - counts.newest)
        counts.newest = time
        for key, value in content.items():
            group.current[key] = time, value
        for pause in list(self._open):
            if pause.group is group and pause.key in content:
                pause.until = time
                self._open.remove(pause)

    def _action(self, begin: int, end: int) -> np.ndarray:
        """Return the action row (steps_per_row * dim,) from one tick to the next, taking what was commanded.

        Of velocities it is the distance over the control step, as planning/timeline.py has it: a control step
        that took a little longer has the same distance.
        """
        group, steps = self._actions, self.steps_per_row
        row = []
        for step in range(steps):
            at, until = (begin + (end - begin) * i // steps for i in (step, step + 1))
            if self.robot.actions.kind == "joint_position":
                row.append(group.values()[0])
                self._take(group, until)
                continue
            distance = np.zeros(len(group.keys))
            while group.waiting and group.waiting[0][0] <= until:
                time, _, _, stream, content = group.waiting.pop(0)
                distance += (time - at) * group.values()[0]
                at = time
                self._use(group, time, stream, content)
            distance += (until - at) * group.values()[0]
            row.append(distance / self._period)
        return np.concatenate(row)

    def _columns(self) -> dict[str, np.ndarray]:
        columns = {}
        for camera in self._cameras:
            name = "pixels" if camera is self._clock else f"pixels_{camera.name}"
            columns[name] = camera.current[""][1]
        if self._joints:
            columns["proprio"] = self._joints.values().reshape(-1).astype(np.float32)
        return columns

    def _emit(self, action: np.ndarray | None) -> Row:
        """Return the pending row with its action; None is the last row's."""
        time, columns = self._pending
        if action is None:
            values = np.full(self.steps_per_row * len(self._actions.keys), np.nan)
        else:
            values = action
            steps = action.reshape(self.steps_per_row, -1)
            self.outside += ((steps < self._low) | (steps > self._high)).sum(0)
        self._length += 1
        self.steps += 1
        columns = {**columns, "action": values.astype(np.float32)}
        return Row(self._length == 1, action is None, time, columns)

    def _end(self) -> list[Row]:
        """End the episode: return its last row."""
        rows = []
        if self._length:
            rows.append(self._emit(None))
            self.lengths.append(self._length)
        elif self._pending is not None:
            self.too_short += 1
        self._pending, self._length = None, 0
        return rows

    def _account(self, until: int) -> None:
        """Count the steps that have no row since the tick that failed, up to the one at ``until``."""
        for group in self._blamed:
            group.dropped += max(1, round((until - self._failed) / self._row))
        self._blamed = []

    def taken(self, stream: str) -> int:
        """Return for how many rows the stream, or one that it shares the joints with, had a new message."""
        stream = self._streams[stream]
        group = self._groups[stream.name if stream.role == "camera" else stream.role]
        return max(0, self.steps + (self._pending is not None) - group.held)

    def problem(self) -> str:
        """Return why a stream gives nothing that can be used, a sentence without a full stop, or ""."""
        for stream in self._streams.values():
            counts, where = self.counts[stream.name], f"{stream.topic} ({stream.name})"
            if counts.messages or counts.others:
                continue
            if counts.rejected:
                return f"no message on {where} can be used: {counts.reason}"
            if counts.unstamped:
                return (
                    f"the messages on {where} have no stamp (it is zero): {self._take_receive_time(stream)}"
                )
            return f"there is no message on {where}: record it, or correct the robot file"
        for group in (self._joints, self._actions):
            if group is not None and (problem := self._missing_names(group)):
                return problem
        return self._apart()

    def _missing_names(self, group: _Group) -> str:
        missing = [key for key in group.keys if key not in group.seen]
        if not missing:
            return ""
        foreign = sorted(self._foreign - group.seen)
        prefix = next(
            (name.removesuffix(key) for name in foreign for key in missing if name.endswith(key)), ""
        )
        near = [m[0] for name in missing if (m := difflib.get_close_matches(name, foreign, 1, 0.5))]
        hint = f"set joints.prefix to {prefix!r}" if prefix else "correct the names in the robot file"
        named = f" (did you mean {', '.join(near)}?)" if near and not prefix else ""
        has = f", they have {', '.join(foreign[:20])}" if foreign else ""
        return f"no message has the {group.name} {', '.join(missing)}{named}{has}: {hint}"

    def _apart(self) -> str:
        """Return which stream's times do not meet those of the model's camera."""
        ours = self.counts[self._clock.name]
        for stream in self._streams.values():
            theirs = self.counts[stream.name]
            if None in (ours.earliest, theirs.earliest):
                continue
            if theirs.latest < ours.earliest or theirs.earliest > ours.latest:
                apart = (theirs.earliest - ours.earliest) / SECOND
                came = "are stamped" if theirs.stamped else "came"
                those = "the stamps" if ours.stamped and not theirs.stamped else "those"
                told = (
                    f"the messages on {stream.topic} ({stream.name}) {came} {abs(apart):.1f} s "
                    f"{'after' if apart > 0 else 'before'} {those} of the camera {self._clock.name}, at no "
                    "time with them"
                )
                if not theirs.stamped and not ours.stamped:
                    return f"{told}: record them together"
                stamped = stream if theirs.stamped else self._streams[self._clock.name]
                return f"{told}: synchronise the clocks, or {self._take_receive_time(stamped)}"
        return ""

    def _take_receive_time(self, stream: Stream) -> str:
        """Return how a person has the times of a stream's messages taken when they are received."""
        option = "use --time receive, or " if self._time_option else ""
        return f"{option}write `time: receive` in {stream.section} of the robot file"

    def _lagging(self) -> str:
        """Return whose stamps are far from those of others, or from the receive time of others, or ""."""
        lags = {name: counts.lag for name, counts in self.counts.items() if counts.lag is not None}
        if not lags:
            return ""
        old, new = max(lags, key=lags.get), min(lags, key=lags.get)
        wrong = max(old, new, key=lambda name: abs(lags[name]))
        received = [name for name, counts in self.counts.items() if counts.messages and not counts.stamped]
        if lags[old] - lags[new] > APART:
            told = f"{old}: stamps are {lags[old] - lags[new]:.2f} s older on arrival than those of {new}"
        elif received and abs(lags[wrong]) > APART:
            word = "older than" if lags[wrong] > 0 else "ahead of"
            told = (
                f"{wrong}: stamps are {abs(lags[wrong]):.2f} s {word} the arrival, which {received[0]} takes"
            )
        else:
            return ""
        remedy = self._take_receive_time(self._streams[wrong])
        return f"{told}: if the clocks are apart, synchronise them, or {remedy}"

    def _splits(self) -> list[str]:
        """Return why episodes were split, a sentence for each cause."""
        causes: dict[tuple, list[_Pause]] = {}
        for pause in self._pauses:
            if pause.until is not None and pause.episode + 1 < len(self.lengths):
                causes.setdefault((pause.group.name, pause.key, pause.silent), []).append(pause)
        found = []
        for (name, key, silent), pauses in causes.items():
            who = f"{name} ({key})" if name == "joints" else name
            longest = max(pause.until - pause.since for pause in pauses) / SECOND
            often = f"{len(pauses)} times for up to" if len(pauses) > 1 else "for"
            why = (
                f"longer than the split gap of {self.rules.split_gap:g} s"
                if silent
                else f"too long for its policy, {pauses[0].group.policy}"
            )
            rows = ", ".join(str(self.lengths[pause.episode]) for pause in pauses[:3])
            where = f"after {rows}{' ...' if len(pauses) > 3 else ''} rows"
            found.append(
                f"{who}: silent {often} {longest:.2f} s, {why}: the episode was split there, {where}"
            )
        if self._set_back:
            times = plural(self._set_back, "time")
            found.append(f"the clock was set back {times}: the episode was split there")
        return found

    def report(self) -> str:
        """Return what came and what became of it, a line for each stream, for people."""
        head = f"{'stream':<22}{'messages':>9}{'Hz':>8}{'declared':>9}{'gap s':>8}{'held':>7}{'dropped':>8}"
        lines = [head + "  time, policy, topic"]
        notes = []
        for stream in self._streams.values():
            counts = self.counts[stream.name]
            group = self._groups[stream.name if stream.role == "camera" else stream.role]
            steps = max(1, self.steps + self.too_short + group.dropped)
            declared = f"{stream.rate:g}" if stream.rate else "-"
            lines.append(
                f"{stream.name:<22}{counts.messages:>9}{counts.rate:>8.1f}{declared:>9}"
                f"{counts.largest_gap / SECOND:>8.3f}{group.held / steps:>7.1%}{group.dropped / steps:>8.1%}"
                f"  {stream.time}, {stream.policy}, {stream.topic}"
            )
            for count, what in (
                (counts.rejected, f"cannot be used: {counts.reason}"),
                (counts.late, "came too late or far out of order, and were left out"),
                (counts.unstamped, "have no stamp (it is zero), and were left out"),
            ):
                if count:
                    notes.append(f"{stream.name}: {count} messages {what}")
        for name, count in zip(self.robot.actions.names, self.outside, strict=True):
            if count:
                notes.append(f"{name}: {count} control steps are outside the limits of the robot file")
        notes += [*filter(None, [self._lagging()]), *self._splits()]
        if self.too_short:
            were = "was" if self.too_short == 1 else "were"
            notes.append(f"{plural(self.too_short, 'episode')} of a single row {were} left out")
        lengths = f" of {between(min(self.lengths), max(self.lengths), 'row')}" if self.lengths else ""
        seconds = max(0, self.steps - len(self.lengths)) * self._row / SECOND
        in_all = f"{plural(self.steps, 'row')} in all, " if len(self.lengths) != 1 else ""
        notes.append(f"{plural(len(self.lengths), 'episode')}{lengths}, {in_all}{seconds:.1f} s")
        return "\n".join(lines + notes)


def _steps_per_row(robot: RobotFile, rules: Rules) -> int:
    """Return the control steps between two rows. Raises UserError where rules and robot do not fit."""
    for camera in robot.cameras:
        if rules.split_gap * camera.rate < 1.5:
            raise UserError(
                f"--split-gap {rules.split_gap:g} is shorter than what lies between the frames of the camera "
                f"{camera.name} ({camera.rate:g} Hz): give at least {1.5 / camera.rate:.2g}."
            )
    if rules.clock == "rate":
        return 1
    rate = next(camera.rate for camera in robot.cameras if camera.name == robot.model_camera)
    steps = round(1 / (rate * robot.period))
    if steps < 1 or abs(steps * rate * robot.period - 1) > MATCHING:
        raise UserError(
            f"the camera {robot.model_camera} cannot be the clock: its frames are {1 / rate:.4g} s apart, "
            f"which is no multiple of the period of {robot.period:g} s: use --clock rate."
        )
    if robot.block % steps:
        raise UserError(
            f"the camera {robot.model_camera} cannot be the clock: a block of {robot.block} control steps "
            f"does not hold whole steps of its frames, {steps} control steps apart: use --clock rate."
        )
    return steps
