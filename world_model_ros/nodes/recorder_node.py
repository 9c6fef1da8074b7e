"""recorder_node: cameras, joints and actions become episodes on disk."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import rclpy.task
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger

from world_model_ros.data.atomic import check_target
from world_model_ros.data.ingest import Rules
from world_model_ros.data.recording import Recorder
from world_model_ros.data.records import types_of
from world_model_ros.data.robot import Stream, read_robot
from world_model_ros.data.words import plural
from world_model_ros.errors import UserError
from world_model_ros.nodes.declaring import declare
from world_model_ros.nodes.messages import STREAMED
from world_model_ros.nodes.polling import polled_subscription
from world_model_ros.nodes.qos import Senders, type_name
from world_model_ros.nodes.record import KEYS, Keyboard, Screen
from world_model_ros.nodes.running import ExecutorLoop

COMMANDS = tuple(command for command in KEYS.values() if command != "quit")
READ_EVERY = 0.02  # seconds; messages wait in the middleware meanwhile
DRAW_EVERY = 0.5
LOOK_EVERY = 0.5
DEPTHS = {"camera": 90, "joints": 5000, "actions": 1000}  # messages that may wait while the node is busy


class Input:
    """The messages of one stream, read when there is time: a callback for each would cost a third of a core.

    It subscribes with the type that the topic is published with. Best effort: a reliable reader that misses
    a message gets nothing more until the publisher's heartbeat, 3 s later by default, and publishers of fast
    streams have no old messages to send again.
    """

    def __init__(self, node: Node, stream: Stream, kinds: tuple[str, ...]):
        self.node, self.stream, self.kinds = node, stream, kinds
        topic = node.resolve_topic_name(stream.topic)
        self._topics = [topic, f"{topic}/compressed"] if stream.role == "camera" else [topic]
        self._subscription = None
        self._made: tuple = ()  # topic and type that it has
        self._senders = Senders()
        self._numbers: dict[bytes, int] = {}  # publisher -> the number of its newest message

    def look(self, keep: bool) -> str:
        """Look who publishes; return why nothing can come, or "". With ``keep`` the subscription stays."""
        wanted, absent = self._find()
        if wanted and wanted != self._made and not (keep and self._subscription):
            self.close()
            topic, kind = self._made = wanted
            profile = QoSProfile(depth=DEPTHS[self.stream.role], reliability=ReliabilityPolicy.BEST_EFFORT)
            self._subscription = polled_subscription(self.node, STREAMED[kind], topic, profile)
        return absent

    def _find(self) -> tuple[tuple, str]:
        """Return topic and type to subscribe with, and why there are none."""
        wrong = ""
        for topic in self._topics:
            types = {info.topic_type for info in self.node.get_publishers_info_by_topic(topic)}
            for kind in self.kinds:
                if type_name(STREAMED[kind]) in types:
                    return (topic, kind), ""
            if types and not wrong:
                wrong = f"{topic} has {min(types)}, {' or '.join(self.kinds)} is needed"
        return (), wrong or f"nobody publishes {self._topics[0]}{self._others()}"

    def _others(self) -> str:
        """Return which topics have the right type."""
        names = {type_name(STREAMED[kind]) for kind in self.kinds}
        found = [
            topic
            for topic, types in self.node.get_topic_names_and_types()
            if names & set(types) and self.node.count_publishers(topic)
        ]
        return f", of its type there are {', '.join(sorted(found)[:5])}" if found else ""

    def read(self) -> Iterator[tuple]:
        """Yield (type, message, when it was received, how many before it were lost, its publisher)."""
        if self._subscription is None:
            return
        handle, kind = self._subscription.handle, self._subscription.msg_type
        with handle:
            for _ in range(DEPTHS[self.stream.role]):
                if (taken := handle.take_message(kind, False)) is None:
                    return
                message, info = taken
                publisher = self._senders.of(info)
                lost = self._lost(info, publisher)
                yield kind.__name__, message, info.get("received_timestamp"), lost, publisher

    def _lost(self, info: dict, publisher: bytes) -> int:
        number = info.get("publication_sequence_number")
        if not number or not publisher:
            return 0
        before = self._numbers.get(publisher, number - 1)
        self._numbers[publisher] = max(number, before)
        return max(0, number - before - 1)

    def nodes(self) -> dict[bytes, str]:
        """Return the names of the nodes that publish the topic, by publisher."""
        infos = self.node.get_publishers_info_by_topic(self._made[0]) if self._made else []
        return self._senders.names(infos)

    def close(self) -> None:
        """End the subscription."""
        if self._subscription is not None:
            self.node.destroy_subscription(self._subscription)
        self._subscription, self._made = None, ()
        self._numbers.clear()
        self._senders = Senders()


class RecorderNode(Node):
    """Reads the messages of a robot file's streams; see data/recording.py for what becomes of them."""

    def __init__(self):
        super().__init__("recorder_node")
        self.values = declare(self, "recorder_node")
        for name in ("robot", "out"):
            if not self.values[name]:
                raise UserError(f"{name} is missing: add {name}:=FILE.")
        robot, out = read_robot(self.values["robot"]), Path(self.values["out"]).expanduser()
        check_target("out", out)
        rules = Rules(self.values["clock"], self.values["split_gap"])
        self.recorder = Recorder(robot, rules, out, self.values["keep_last"])
        self.sim_time = self.get_parameter("use_sim_time").value
        self.inputs = [Input(self, stream, types_of(robot, stream)) for stream in robot.streams]
        self.screen = Screen()
        self.quitting = False
        self.outcomes: list[tuple] = []  # (future of the recorder, what to call when it is done)
        self.drawn = 0.0
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        for command in COMMANDS:
            self.create_service(Trigger, f"recorder/{command}", self.service(command))
        self.create_timer(LOOK_EVERY, self.look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def now(self) -> int:
        """Return the node's time, in which messages are received."""
        return self.get_clock().now().nanoseconds

    def look(self) -> None:
        """See who publishes, and publish the diagnostics."""
        clock = ""
        if self.sim_time and not self.now():
            clock = "use_sim_time is true and nobody publishes /clock"
        for entry in self.inputs:
            arrivals = self.recorder.arrivals[entry.stream.name]
            arrivals.absent = clock or entry.look(keep=self.recorder.recording)
            if arrivals.mixed:
                arrivals.nodes |= entry.nodes()  # also of those that are gone by now
        now = self.now()
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        status = DiagnosticStatus(name=self.get_fully_qualified_name(), message=self.recorder.state(now))
        ready = self.recorder.recording or "not ready" not in status.message
        status.level = DiagnosticStatus.OK if ready else DiagnosticStatus.WARN
        values: dict[str, object] = {
            "recording": self.recorder.recording,
            "episodes": self.recorder.writer.episodes,
            "disk_minutes": round(self.recorder.seconds_left / 60, 1),
            "bytes_waiting_for_the_disk": self.recorder.writer.waiting,
        }
        for name, arrivals in self.recorder.arrivals.items():
            values |= {f"{name} received": arrivals.received, f"{name} lost": arrivals.lost}
            values |= {f"{name} Hz": f"{arrivals.rate:.1f}", f"{name} rejected": arrivals.rejected}
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        message.status = [status]
        self.diagnostics.publish(message)

    def service(self, command: str):
        """Return the callback of a command's service, which answers when the command is done."""

        async def answer(_request, response: Trigger.Response) -> Trigger.Response:
            future = rclpy.task.Future()
            self.act(command, lambda success, text: future.set_result((success, text)))
            response.success, response.message = await future
            return response

        return answer

    def act(self, command: str, done=lambda *_: None) -> None:
        """Do a command; ``done(success, sentence)`` is called when that is known."""

        def tell(success: bool, text: str) -> None:
            self.screen.say(text)
            done(success, text)

        self.read()  # what came before the command counts as that
        try:
            outcome = self.recorder.start(self.now()) if command == "start" else None
            outcome = outcome or getattr(self.recorder, command)()
        except UserError as error:
            tell(False, str(error))
            return
        if isinstance(outcome, str):
            tell(True, outcome)
        else:
            self.outcomes.append((outcome, tell))

    def read(self) -> None:
        """Hand all messages that have come on to the recorder."""
        for entry in self.inputs:
            arrivals = self.recorder.arrivals[entry.stream.name]
            for kind, message, received, lost, publisher in entry.read():
                arrivals.lost += lost
                moment = self.now() if self.sim_time or not received else received
                if moment:  # else there is no time yet
                    self.recorder.take(entry.stream, kind, message, moment, publisher)

    def main_loop(self, loop: ExecutorLoop) -> int:
        """Run until a signal or the key q; return the exit code."""
        keyboard = Keyboard() if self.values["keyboard"] else None
        if keyboard is not None:
            self.screen.say(", ".join(f"{key} {command}" for key, command in KEYS.items()))
        try:
            while not loop.stopping and not self.quitting:
                # At this pace, also where /clock wakes the executor more often.
                time.sleep(READ_EVERY)
                loop.spin(0.0)
                self.read()
                if (ended := self.recorder.check(self.now())) is not None:
                    why, outcome = ended
                    if why:
                        self.screen.say(why)
                    self.outcomes.append((outcome, lambda _, text: self.screen.say(text)))
                self.tell_outcomes()
                for command in keyboard.commands() if keyboard else ():
                    if command == "quit":
                        self.quitting = True
                    else:
                        self.act(command)
                self.draw()
            return self.finish()
        finally:
            if keyboard is not None:
                keyboard.close()

    def tell_outcomes(self) -> None:
        """Tell whoever waits for a command that is done."""
        waiting, self.outcomes = self.outcomes, []
        for future, tell in waiting:
            if future.done():
                tell(*_outcome(future))
            else:
                self.outcomes.append((future, tell))

    def draw(self) -> None:
        """Show the streams, where there is a terminal."""
        if not self.screen.live or time.monotonic() - self.drawn < DRAW_EVERY:
            return
        self.drawn = time.monotonic()
        self.screen.draw([*self.recorder.table(self.now()), self.recorder.state(self.now())])

    def finish(self) -> int:
        """Keep the episode in progress, and make the one file of all."""
        self.read()
        if self.recorder.recording:
            self.outcomes.append((self.recorder.stop(), lambda _, text: self.screen.say(text)))
        for future, tell in self.outcomes:
            tell(*_outcome(future))
        stored = self.recorder.writer.episodes
        if stored and not self.recorder.writer.removed:
            self.screen.say(f"joining {plural(stored, 'episode')} ...")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.screen.say(self.recorder.close())
        except KeyboardInterrupt:
            out = self.recorder.path
            self.screen.say(
                f"interrupted: the episodes are safe, join them with `record --finish --out {out}`"
            )
            return 130
        return 0

    def close(self) -> None:
        """End the subscriptions."""
        for entry in self.inputs:
            entry.close()


def _outcome(future: Future) -> tuple[bool, str]:
    """Wait for a command; return whether it succeeded, and the sentence."""
    error = future.exception()
    if error is None:
        return True, future.result()
    return False, str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def make_node() -> RecorderNode:
    """Return the node."""
    return RecorderNode()
