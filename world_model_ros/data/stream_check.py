"""What robot-check finds: the messages that were heard, judged against what the robot file declares.

Times are integer nanoseconds of the node's clock. The phrases for people name the fault and the remedy.
"""

import difflib
import itertools
import math
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from world_model_ros.camera.frames import FrameGate
from world_model_ros.data.records import SECOND, make_record, types_of
from world_model_ros.data.robot import SOURCES, RobotFile, Stream

SLOW = 0.8  # of the declared rate: less is a fault
FAST = 1.25  # of the declared rate: more is noted
OLDEST, AHEAD = 0.5, 0.3  # seconds that a message may be old on arrival, or stamped ahead
UPTIME = 10 * 365 * 86400.0  # seconds: a stamp that is older counts from the start of a computer
FRAMES_PER_STEP = 2.5  # of the model's camera in a model step, at least
STOPPED = 1.0  # seconds without a message at the end that count as stopped
LOOKS = SECOND // 2  # between two frames that are decoded
LARGE = 512 << 10  # bytes of a message above which Fast DDS needs this package's profile
ROUNDING = 0.01  # of the limits' range, by which an action may be outside
ENOUGH = 3  # messages from which a rate is judged
ANOTHER = "another program"  # that is not there any more, or has no name


class Endpoint(NamedTuple):
    """A publisher or a subscriber of a topic, as discovery tells."""

    node: str  # full name; empty where it is not known
    kind: str  # message type, such as sensor_msgs/msg/Image
    qos: str  # such as "best_effort, volatile"
    identity: str = ""  # by which messages name their publisher, where they do

    def __str__(self) -> str:
        return self.node or "a program without a name"


@dataclass
class Finding:
    """What was found about one stream; it is all right where there are no problems."""

    name: str
    topic: str
    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the finding as text."""
        head = f"{'FAULT' if self.problems else 'ok':<6}{self.name:<18}{self.topic}".rstrip()
        facts = [", ".join(self.facts)] if self.facts else []
        faults = [f"-> {text}" for text in self.problems]
        return [head, *(f"      {text}" for text in (*facts, *faults, *(f"note: {n}" for n in self.notes)))]


def short(kind: str) -> str:
    """Return the name of a message type without its package."""
    return kind.rpartition("/")[2]


def _known(publishers: set[str]) -> bool:
    # Not where rclpy does not tell who sent a message (Jazzy): numbers tell that there are two, not which.
    return all(publisher and not publisher.startswith("#") for publisher in publishers)


@dataclass
class _Series:
    """The moments of messages that belong together: one publisher's joints, one camera."""

    arrivals: list[int] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)


class StreamWatch:
    """Takes the messages of one declared stream with ``take``; ``finding`` judges them."""

    def __init__(self, robot: RobotFile, stream: Stream, simulated: bool = False):
        self.robot, self.stream, self.simulated = robot, stream, simulated
        # Frames as they come: nothing is stored here.
        self._unscaled = replace(robot, cameras=tuple(replace(c, size=None) for c in robot.cameras))
        self.count = self.others = 0
        self.names: set[str] = set()  # of joints that its messages had
        self.given: set[str] = set()  # names that its messages had numbers for
        self._series: dict[tuple, _Series] = {}
        self._kind = ""
        self._first: int | None = None
        self._last = 0
        self._rejected: Counter[str] = Counter()
        self._unstamped = self._bytes = 0
        self._shapes: dict[str, None] = {}
        self._pictures: set[int] = set()
        self._looked = -LOOKS
        self._dark = ""
        self._side: int | None = None  # of the smallest frame
        self._beyond: dict[str, tuple[float, str]] = {}  # action -> by how much outside its limits, and how

    def take(self, kind: str, message, received: int, publisher: str = "") -> None:
        """Take a message of type ``kind`` (``Image`` ...) that came at ``received``.

        ``publisher`` is the identity of an endpoint, "#" and a number for one that is told apart and not
        known, or empty.
        """
        self.count += 1
        self._kind, self._last = kind, received
        self._first = received if self._first is None else self._first
        key = ()
        if kind in ("Image", "CompressedImage"):
            self._take_frame(kind, message, received)
        else:
            key = self._take_numbers(kind, message, received, publisher)
            if key is None:
                self.others += 1
                return
        series = self._series.setdefault(key, _Series())
        series.arrivals.append(received)
        header = getattr(message, "header", None)
        if header is None or kind == "JointTrajectory":  # whose stamp of zero means now
            return
        stamp = header.stamp.sec * SECOND + header.stamp.nanosec
        self._unstamped += not stamp
        series.stamps.append(stamp)

    def _take_frame(self, kind: str, message, received: int) -> None:
        self._bytes = max(self._bytes, len(message.data))
        self._pictures.add(zlib.crc32(message.data))
        if kind == "Image":
            self._shapes[f"{message.width}x{message.height} {message.encoding}"] = None
        elif message.format:
            self._shapes[message.format] = None
        if received - self._looked < LOOKS:
            return
        self._looked = received
        try:
            record = make_record(self._unscaled, self.stream, kind, message, received)
        except ValueError as reason:
            self._rejected[str(reason)] += 1
            return
        pixels = record.content[""]
        self._side = min(*pixels.shape[:2], self._side or math.inf)
        self._dark = FrameGate.look(pixels)
        if kind == "CompressedImage":
            self._shapes[f"{pixels.shape[1]}x{pixels.shape[0]}"] = None

    def _take_numbers(self, kind: str, message, received: int, publisher: str) -> tuple | None:
        """Return to which series a message belongs; None where it is about other joints."""
        self.names.update(getattr(message, "name", ()))
        try:
            record = make_record(self.robot, self.stream, kind, message, received)
        except ValueError as reason:
            self._rejected[str(reason)] += 1
            return (publisher,)
        self.names.update(record.names)
        self.given.update(record.content)
        if self.stream.role == "actions":
            self._compare_limits(record.content)
        if record.names and not record.content:
            return None
        return (publisher, *sorted(record.content)) if self.stream.role == "joints" else (publisher,)

    def _compare_limits(self, content: dict) -> None:
        actions = self.robot.actions
        for name, low, high in zip(actions.names, actions.low, actions.high, strict=True):
            if name in content:
                value = content[name][0]
                excess = max(value - high, low - value)
                if excess > max(ROUNDING * (high - low), self._beyond.get(name, (0.0,))[0]):
                    told = f"{name} was {value:.3g}, its limits are {low:g} to {high:g}"
                    self._beyond[name] = excess, told

    # What is made of them.

    def finding(self, publishers: list[Endpoint], end: int, elsewhere: list[str]) -> Finding:
        """Return the judgement at ``end``; ``elsewhere`` are other topics of the right type."""
        stream = self.stream
        name = f"camera {stream.name}" if stream.role == "camera" else stream.role
        found = Finding(name, stream.topic)
        wanted = types_of(self.robot, stream)
        wrong = sorted({p.kind for p in publishers if short(p.kind) not in wanted})
        if not publishers:
            self._nobody(found, elsewhere)
            return found
        if wrong and not self.count:
            who = ", ".join(str(p) for p in publishers if p.kind in wrong)
            found.problems.append(f"{who} publishes {', '.join(wrong)}: {self._other_type(wrong[0], wanted)}")
            return found
        who = f"from {', '.join(sorted({str(p) for p in publishers}))}"
        policies = sorted({p.qos for p in publishers})
        if not self.count:
            found.facts += [who, *policies]
            profile = (
                "; if its frames have more than 512 KiB, start it with this package's config/fastdds.xml"
            )
            found.problems.append(
                "it is published, and no message came: see that its driver runs"
                + (profile if stream.role == "camera" else "")
            )
            return found
        self._judge_content(found, {p.identity: str(p) for p in publishers})
        self._judge_times(found, end)
        found.facts += [*policies, who]
        if stream.role == "camera" and len(publishers) > 1:
            found.problems.append(f"{len(publishers)} publishers send it: stop all but the camera")
        if stream.role == "actions" and len(publishers) > 1:
            self._judge_publishers(found, publishers)
        return found

    def _judge_publishers(self, found: Finding, publishers: list[Endpoint]) -> None:
        """Actions are one node's: those of two mix in the rows. One that is silent may be there."""
        sending, at_once = {key[0] for key in self._series}, self._at_once()
        names, everybody = {p.identity: str(p) for p in publishers}, ", ".join(sorted(map(str, publishers)))
        silent = [str(p) for p in publishers if p.identity not in sending]
        if at_once:
            who = ", ".join(sorted(names.get(identity, ANOTHER) for identity in at_once))
            if not _known(at_once):
                who = everybody if len(publishers) == len(at_once) else f"of {everybody}"
            found.problems.append(f"{len(at_once)} nodes publish it at once ({who}): end all but one")
        elif silent and _known(sending):
            who = ", ".join(sorted(silent))
            found.notes.append(
                f"{who} can publish it too and sent nothing: end it, or see that it stays silent"
            )
        else:  # one after the other, or rclpy does not tell who
            found.notes.append(f"{everybody} can publish it: see that only one of them sends")

    def _at_once(self, joint: str = "") -> set[str]:
        """Return the publishers that sent in turns; those of ``joint`` only, if any.

        One that was started again has two identities, one after the other.
        """
        spans: dict[str, tuple[int, int]] = {}
        for (publisher, *names), series in self._series.items():
            if not joint or joint in names:
                ends = spans.get(publisher, series.arrivals[:1] * 2)
                spans[publisher] = min(ends[0], series.arrivals[0]), max(ends[1], series.arrivals[-1])
        pairs = itertools.permutations(spans, 2)
        return {a for a, b in pairs if spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]}

    def _nobody(self, found: Finding, elsewhere: list[str]) -> None:
        where = f"; topics of this type are {', '.join(elsewhere)}" if elsewhere else ""
        if self.stream.role == "actions" and self.stream.topic.endswith("command/executed"):
            found.notes.append("nobody publishes it yet: command_node does while it is active")
            return
        starts = {"camera": "the camera", "joints": "the robot's driver", "actions": "the teleoperation"}
        section = {"camera": f"cameras.{self.stream.name}.topic", "joints": "joints.topics"}
        found.problems.append(
            f"nobody publishes it{where}: start {starts[self.stream.role]}, or correct "
            f"{section.get(self.stream.role, 'actions.source.topic')}"
        )

    def _other_type(self, kind: str, wanted: tuple[str, ...]) -> str:
        kinds = SOURCES.get(short(kind), ())
        if self.stream.role == "actions" and self.robot.actions.kind in kinds:
            return f"set actions.source.type to {short(kind)}"
        return f"{' or '.join(wanted)} is needed, give another topic"

    def _judge_content(self, found: Finding, nodes: dict[str, str]) -> None:
        role = self.stream.role
        if role == "camera":
            size = f"{self._bytes / 1024:.0f} KiB"
            found.facts.append(f"{self._kind} {', '.join(reversed(self._shapes))}, {size}")
            self._judge_frames(found)
        elif role == "joints":
            found.facts.append(f"{len(self.given)} of {len(self.robot.joints.names)} joints")
            twice = {name: who for name in sorted(self.given) if (who := self._at_once(name))}
            if twice and len(nodes) > 1:
                name, identities = next(iter(twice.items()))
                who = " and ".join(sorted(nodes.get(i, ANOTHER) for i in identities)) + " both"
                if not _known(identities):
                    who = f"two of {', '.join(sorted(nodes.values()))}"
                found.problems.append(f"{who} send {name}: stop one of them")
        else:
            found.facts.append(self._kind)
            self._judge_actions(found)
        for reason, count in self._rejected.most_common(2):
            found.problems.append(f"a message cannot be used ({count} times): {reason}")

    def _judge_frames(self, found: Finding) -> None:
        camera = next(c for c in self.robot.cameras if c.name == self.stream.name)
        seconds = (self._last - self._first) / SECOND
        if len(self._pictures) == 1 and self.count >= ENOUGH and seconds > 1:
            same = f"all {self.count} pictures are the same"
            if self.simulated:  # its camera has no noise
                found.notes.append(same)
            else:
                found.problems.append(f"{same}: the camera hangs, restart it")
        if self._dark:
            found.problems.append(self._dark)
        if camera.size and self._side and self._side < camera.size:
            found.problems.append(
                f"its frames have {self._side} pixels, {camera.size} are to be stored: set "
                f"cameras.{camera.name}.size to {self._side} or less"
            )

    def _judge_actions(self, found: Finding) -> None:
        actions, names = self.robot.actions, self.names
        missing = [name for name in actions.names if names and name not in self.given]
        if missing:
            found.problems.append(
                f"it has no {', '.join(missing)}, it has {', '.join(sorted(names))}: correct actions.names"
            )
        if self._beyond:
            told = "; ".join(text for _, text in self._beyond.values())
            found.problems.append(
                f"{told}: slow the teleoperation down, or correct actions.low and actions.high"
            )

    def _judge_times(self, found: Finding, end: int) -> None:
        used = [series for series in self._series.values() if series.arrivals]
        if not used:
            return
        slowest = min(used, key=lambda series: _rate(series.arrivals))
        stamped = self.stream.time == "header" and slowest.stamps and not self._unstamped
        times = sorted(slowest.stamps) if stamped else slowest.arrivals
        gaps, rate = np.diff(times) / SECOND, _rate(times)
        declared = self.stream.rate
        against = f" (declared {declared:g})" if declared else ""
        if len(gaps):
            found.facts.append(
                f"{rate:.1f} Hz{against}, jitter {1e3 * gaps.std():.1f} ms, "
                f"largest gap {1e3 * gaps.max():.0f} ms"
            )
        silent = (end - self._last) / SECOND
        if silent > STOPPED and (not declared or silent > 3 / declared) and self.stream.role != "actions":
            found.problems.append(
                f"it stopped {silent:.1f} s before the end: see whether its driver still runs"
            )
        elif self.stream.role != "actions" and len(times) >= ENOUGH:
            self._judge_rate(found, rate)
        if self.stream.time == "header":
            self._judge_stamps(found, used)

    def _judge_rate(self, found: Finding, rate: float) -> None:
        declared, camera = self.stream.rate, self.stream.role == "camera"
        section = f"cameras.{self.stream.name}.rate" if camera else "joints.rate"
        if declared and rate < SLOW * declared:
            cause = "set the driver's rate, give it a faster connection, or"
            if camera and self._bytes > LARGE:
                cause = "start the camera with this package's config/fastdds.xml, set the driver's rate, or"
            found.problems.append(
                f"it comes at {rate:.1f} Hz, {declared:g} are declared: {cause} correct {section}"
            )
        elif declared and rate > FAST * declared:
            found.notes.append(f"it comes faster than declared: set {section} to {rate:.0f}")
        needed = FRAMES_PER_STEP / (self.robot.period * self.robot.block)
        if camera and self.stream.name == self.robot.model_camera and rate < SLOW * needed:
            found.problems.append(
                f"a model step of {self.robot.period * self.robot.block:g} s needs {needed:g} Hz of the "
                "model's camera: set the camera faster, or a larger block"
            )

    def _judge_stamps(self, found: Finding, used: list[_Series]) -> None:
        ages = [
            (arrived - stamp) / SECOND
            for series in used
            for arrived, stamp in zip(series.arrivals, series.stamps, strict=False)
        ]
        if not ages:
            return
        remedy = f"write `time: receive` in {self.stream.section}"
        if self._unstamped:
            found.problems.append(
                f"{self._unstamped} of {self.count} messages have the stamp zero: let the driver stamp, "
                f"or {remedy}"
            )
            return
        age = float(np.median(ages))
        shown = 0.0 if -AHEAD <= age < 0 else age  # a simulated clock is heard a little late
        found.facts.append(f"age {1e3 * shown:.0f} ms" if abs(age) < 10 else f"age {age:.0f} s")
        if age > UPTIME:
            found.problems.append(
                "its stamps count from the start of a computer: let the driver stamp with the time of day, "
                f"or {remedy}; in a simulation add --use-sim-time"
            )
        elif age > OLDEST:
            found.problems.append(
                f"its stamps are {age:.1f} s old on arrival: synchronise the clocks of the two computers, "
                f"or {remedy}"
            )
        elif age < -UPTIME:
            found.problems.append(
                "its stamps are the time of day, this clock is a simulated one: leave out --use-sim-time"
            )
        elif age < -AHEAD:
            found.problems.append(
                f"its stamps are {-age:.1f} s ahead of this computer's clock: synchronise the clocks, "
                f"or {remedy}"
            )
        back = sum(int((np.diff(series.stamps) <= 0).sum()) for series in used if len(series.stamps) > 1)
        if back and self.stream.role == "camera":
            found.problems.append(
                f"{back} stamps are not newer than the one before: let the driver stamp each frame, "
                f"or {remedy}"
            )


def _rate(times: list[int]) -> float:
    """Return how many of these moments come in a second; 0 where there are not two."""
    passed = times[-1] - times[0]
    return (len(times) - 1) * SECOND / passed if passed > 0 else 0.0


def joint_names(robot: RobotFile, watches: list[StreamWatch]) -> Finding:
    """Return which declared joints were heard on all their topics, and what the others may be called."""
    wanted, prefix = robot.joints.names, robot.joints.prefix
    heard = set().union(*(watch.names for watch in watches))
    present = {name for watch in watches for name in watch.given}
    missing = [name for name in wanted if name not in present]
    found = Finding("joint names", "")
    if present:
        found.facts.append(f"found {', '.join(prefix + name for name in wanted if name in present)}")
    unusable = [prefix + name for name in missing if prefix + name in heard]
    missing = [name for name in missing if prefix + name not in heard]
    if unusable:
        found.problems.append(f"no value of {', '.join(unusable)} can be used: see the fault of joints")
    if missing and heard:
        found.problems.append(_what_is_missing(missing, sorted(heard), prefix))
    elif missing:
        found.problems.append("no joint states came")
    return found


def _what_is_missing(missing: list[str], heard: list[str], prefix: str) -> str:
    text = f"missing {', '.join(prefix + name for name in missing)}; the messages have {', '.join(heard)}"
    guess = guess_prefix(missing, heard)
    if guess is not None and guess != prefix:
        return f"{text}: set joints.prefix to '{guess}'"
    pairs = []
    for name in missing:
        near = difflib.get_close_matches(prefix + name, heard, 1, 0.6)
        if near:
            pairs.append(f"{near[0]} for {prefix + name}")
    hint = f"; the nearest are {', '.join(pairs)}" if pairs else ""
    return f"{text}{hint}: correct joints.names, or add the topic that has them to joints.topics"


def guess_prefix(wanted: list[str], heard: list[str]) -> str | None:
    """Return what, put before every wanted joint, gives names that were heard; None where nothing does.

    Where several do, it is the shortest.
    """
    choices = {name.removesuffix(wanted[0]) for name in heard if name.endswith(wanted[0])}
    fitting = [p for p in choices if all(p + name in heard for name in wanted)]
    return min(fitting, key=lambda p: (len(p), p), default=None)


def command_finding(
    robot: RobotFile,
    topic: str,
    kind: str,
    publishers: list[Endpoint],
    subscribers: list[Endpoint],
    deaf: list[Endpoint],
    recorded: bool,
) -> Finding:
    """Return what is found on the command topic, whose messages are of type ``kind``.

    deaf: those subscribers whose quality of service is incompatible with command_node's. recorded: whether
    actions are recorded from the same topic.
    """
    found = Finding("command", topic, [robot.interface])
    fitting = [s for s in subscribers if s.kind == kind]
    ours = [p for p in publishers if p.node.endswith("/command_node")]
    others = [p for p in publishers if p not in ours]
    if fitting:
        found.facts.append(f"to {', '.join(sorted({f'{s} ({s.qos})' for s in fitting}))}")
    elif subscribers:
        s = subscribers[0]
        same = {"TwistStamped": "twist", "Twist": "twist_unstamped"}
        other = same.get(short(s.kind))
        remedy = f"set command.interface to {other}" if other and short(kind) in same else "correct command"
        found.problems.append(f"{s} takes {s.kind}, command_node sends {kind}: {remedy}")
    else:
        found.problems.append("nobody subscribes: start the robot's controller, or correct command.topic")
    for s in deaf:
        found.problems.append(
            f"{s} subscribes {s.qos}, command_node publishes reliable, volatile: let it subscribe volatile"
        )
    if len(ours) > 1:
        found.problems.append(f"{' and '.join(map(str, ours))} both command the robot: stop one of them")
    if ours:
        found.facts.append(f"from {', '.join(map(str, ours))}")
    who = ", ".join(map(str, others))
    if others and recorded:
        verb, it = ("publishes", "it") if len(others) == 1 else ("publish", "them")
        found.notes.append(f"{who} {verb} it, the source of actions: stop {it} before planning begins")
    elif others:
        verb, it = ("publishes", "it") if len(others) == 1 else ("publish", "them")
        found.problems.append(f"{who} {verb} it too: stop {it} before command_node commands the robot")
    return found
