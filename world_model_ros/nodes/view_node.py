"""view_node: a page in the browser that shows what the robot sees and does, with buttons."""

import math
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool, Float32, String
from std_srvs.srv import SetBool, Trigger

from world_model_ros.camera.images import ImageRejectedError
from world_model_ros.errors import UserError
from world_model_ros.nodes.declaring import declare
from world_model_ros.nodes.managed import STATE
from world_model_ros.nodes.messages import pixels_of
from world_model_ros.nodes.qos import FRESH, LATCHED, RELIABLE, type_name
from world_model_ros.nodes.running import ExecutorLoop
from world_model_ros.nodes.view.access import Access, listen
from world_model_ros.safety.health import COMMAND, MONITOR, PLANNER

try:
    from world_model_ros.nodes.view.server import PageServer
except ModuleNotFoundError as error:
    if error.name != "aiohttp":
        raise
    raise UserError("the page needs aiohttp: pip install aiohttp.") from None

LOOK = 0.5  # seconds between two looks at who publishes and serves what
HUNG = 15  # seconds without a turn of the main loop after which the process is ended
HEARD = 2.0  # seconds since a heartbeat for which command_node counts as running
# picture -> topic, of sensor_msgs/Image; CompressedImage on the topic below it
PICTURES = {"camera": "camera/image_raw", "goal": "goal/image", "imagination": "imagination"}
LARGEST = 1600  # pixels of a picture's longer side; larger ones are made smaller
PLAIN = 256  # pixels of a picture's longer side up to which it is sent without losses
PASSED_ON = 300_000  # bytes of a JPEG or PNG up to which it is sent as it came
# Of /diagnostics, on which all nodes report in the same moment. None of them waits for a page.
REPORTS = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
STARTS = (b"\xff\xd8\xff", b"\x89PNG")
MOST_PRESSED = 32  # buttons that may wait for an answer


@dataclass(frozen=True)
class Button:
    """A service, and what to ask of it."""

    service: str
    enable: bool | None = None  # SetBool's data; None for a Trigger


STOP = "stop"
BUTTONS = {
    STOP: Button("command/emergency_stop"),
    "new_goal": Button("sim/new_goal"),
    "goal_from_camera": Button("planner/goal_from_camera"),
    "enable": Button("planner/enable", True),
    "disable": Button("planner/enable", False),
    "reset": Button("command/reset"),
    "release": Button("command/release"),
}


class ViewNode(Node):
    """Subscribes while somebody watches; publishes the emergency stop and calls services for the buttons."""

    def __init__(self):
        super().__init__("view_node")
        self.values = declare(self, "view_node")
        sockets = listen(self.values["host"], self.values["port"])
        self.access = Access(self.values["host"], sockets)
        self.wakes = self.create_guard_condition(self.on_woken)
        self.server = PageServer(sockets, self.access, self.press, self.wakes.trigger)
        # Made now, so that the first press does not wait for discovery. Volatile: a stop of the past must
        # not reach a command_node that starts later.
        # command_node has a reader of each kind: that one of them does not match is no problem.
        self.stop_out = self.create_publisher(
            Bool,
            "command/emergency_stop",
            RELIABLE,
            event_callbacks=PublisherEventCallbacks(incompatible_qos=lambda _: None),
        )
        self.callers = {
            button.service: self.create_client(Trigger if button.enable is None else SetBool, button.service)
            for button in BUTTONS.values()
        }
        self.pressed: deque[tuple[str, Future]] = deque()
        self.unanswered: dict = {}  # rclpy's future -> the button's
        self.lock = threading.Lock()  # for ``pressed``
        self.subscriptions_of: dict[str, list] = {}  # what is shown -> [subscription, its key], while watched
        self.due = {"camera": 0.0, "imagination": 0.0}  # when the next picture of a stream is taken
        self.since = 0.0  # when the first viewer came
        self.heartbeat = 0.0  # of command_node
        self.enabled: bool | None = None  # whether the planner plans
        self.camera: bytes | None = None  # the newest picture
        self.taken: bytes | None = None  # the picture of the goal that the camera was asked for
        self.goal_published = 0  # when the newest goal on the topic was
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(LOOK, self.look, clock=steady)

    def main_loop(self, loop: ExecutorLoop) -> int:
        """Serve until a signal comes."""
        self.server.start()
        print(f"view_node: open {self.access.address()} in a browser", flush=True)
        if not self.access.local:
            print("view_node: whoever has this address can move and stop the robot", flush=True)
        while not loop.stopping:
            # To destroy the subscription of a picture may wait for ever (event_thread.py): no Python runs
            # meanwhile, and the button that stops the robot would be dead.
            signal.alarm(HUNG)
            loop.spin()
        signal.alarm(0)
        return 0

    def close(self) -> None:
        """End the page."""
        self.server.close()

    # The buttons.

    def press(self, name: str) -> Future | None:
        """Take a button that was pressed, in the server's thread; return the answer to come."""
        if name not in BUTTONS:
            return None
        if name == STOP:
            # At once and from here: it waits for nothing that this node is doing.
            self.stop_out.publish(Bool(data=True))
        answer: Future = Future()
        with self.lock:
            if len(self.pressed) + len(self.unanswered) >= MOST_PRESSED:
                answer.set_result((False, "too many buttons wait for an answer: press it again later"))
                return answer
            self.pressed.append((name, answer))
        self.wakes.trigger()
        return answer

    def on_woken(self) -> None:
        """Do what the server's thread asks for: subscribe or not, call the services."""
        self.look()
        while self.pressed:
            with self.lock:
                name, answer = self.pressed.popleft()
            self.call(name, answer)
        for future, answer in list(self.unanswered.items()):
            if answer.cancelled():  # it took too long
                self.forget(future)

    def call(self, name: str, answer: Future) -> None:
        """Call a button's service."""
        button = BUTTONS[name]
        client = self.callers[button.service]
        if not client.service_is_ready():
            place = self.resolve_service_name(button.service)
            _answer(answer, False, f"nobody offers the service {place}: start the node that does")
            return
        request = Trigger.Request() if button.enable is None else SetBool.Request(data=button.enable)
        future = client.call_async(request)
        self.unanswered[future] = answer
        future.add_done_callback(partial(self.on_answer, name))

    def on_answer(self, name: str, future) -> None:
        """Hand a service's answer to the page."""
        answer = self.unanswered.pop(future, None)
        if answer is None or future.cancelled():
            return
        response = future.result()
        if name == "goal_from_camera" and response.success and self.camera is not None:
            self.taken = self.camera
            self.show_goal(self.taken)
        _answer(answer, response.success, response.message)

    def forget(self, future) -> None:
        """Wait no longer for an answer."""
        del self.unanswered[future]
        for client in self.callers.values():
            client.remove_pending_request(future)

    # What is shown.

    def look(self) -> None:
        """Subscribe to what is published while somebody watches, and tell what is not."""
        if not self.server.viewers:
            for subscription, _ in self.subscriptions_of.values():
                self.destroy_subscription(subscription)
            self.subscriptions_of.clear()
            self.camera = self.enabled = None
            return
        now = time.monotonic()
        if not self.subscriptions_of:
            self.since = now
        for name, topic in PICTURES.items():
            self.look_for_picture(name, topic)
        self.watch("status", String, "status", LATCHED, lambda m: self.server.publish(status=m.data))
        for name in ("goal/distance", "surprise"):
            self.watch(name, Float32, name, FRESH, partial(self.on_number, name.replace("goal/", "")))
        self.watch("command", DiagnosticStatus, f"{COMMAND}/health", FRESH, self.on_command_health)
        self.watch("planner", DiagnosticStatus, f"{PLANNER}/health", FRESH, self.on_planner_health)
        self.watch("monitor", DiagnosticStatus, f"{MONITOR}/health", FRESH, self.on_monitor_health)
        self.watch("diagnostics", DiagnosticArray, "/diagnostics", REPORTS, self.on_diagnostics)
        silent = now - max(self.since, self.heartbeat) >= HEARD
        self.server.publish(
            heard=False if silent else self.heartbeat > self.since or None,
            stop_heard=bool(self.stop_out.get_subscription_count()),
            offered={n: self.callers[b.service].service_is_ready() for n, b in BUTTONS.items()},
        )

    def watch(self, name: str, kind: type, topic: str, profile: QoSProfile, callback) -> None:
        """Subscribe, unless that was done in the same way."""
        key = kind, topic, profile.reliability, profile.durability
        old = self.subscriptions_of.get(name)
        if old and old[1] == key:
            return
        self.unwatch(name)
        self.subscriptions_of[name] = [self.create_subscription(kind, topic, callback, profile), key]

    def unwatch(self, name: str) -> None:
        """Unsubscribe."""
        if old := self.subscriptions_of.pop(name, None):
            self.destroy_subscription(old[0])

    def look_for_picture(self, name: str, topic: str) -> None:
        """Subscribe to a picture where it is published, compressed if possible."""
        others = ""
        for kind, place in ((CompressedImage, f"{topic}/compressed"), (Image, topic)):
            infos = self.get_publishers_info_by_topic(self.resolve_topic_name(place))
            fitting = [info.qos_profile for info in infos if info.topic_type == type_name(kind)]
            if fitting:
                self.watch(name, kind, place, _profile(fitting), partial(self.on_picture, name))
                self.server.publish(**{f"{name}_missing": None})
                return
            others = others or next((info.topic_type for info in infos), "")
        self.unwatch(name)
        place = self.resolve_topic_name(topic)
        why = f"{place} is of type {others}, not an image." if others else f"Nobody publishes {place}."
        if name == "imagination" and not others:
            why += " Start imagination_node to see what the model imagines."
        self.server.publish(**{f"{name}_missing": why})

    def on_picture(self, name: str, message, info: dict) -> None:
        """Show a picture, unless the last one of a stream was a moment ago."""
        now = time.monotonic()
        if now < self.due.get(name, 0.0):
            return
        if name in self.due:
            self.due[name] = now + 1.0 / self.values["picture_rate"]
        try:
            picture = encoded(message)
        except ImageRejectedError as reason:
            self.server.publish(**{f"{name}_missing": f"A picture cannot be shown: {reason}."})
            return
        if name == "goal":
            # A new subscription brings the newest one again, which the camera's may have replaced since.
            if self.goal_published != info["source_timestamp"]:
                self.goal_published, self.taken = info["source_timestamp"], None
            self.show_goal(self.taken or picture)
            return
        if name == "camera":
            self.camera = picture
        self.server.publish(**{name: picture, f"{name}_missing": None})

    def show_goal(self, picture: bytes) -> None:
        """Show the goal, and whether the camera's picture was made the goal."""
        note = "taken from the camera" if self.taken else None
        self.server.publish(goal=picture, goal_note=note, goal_missing=None)

    def on_number(self, name: str, message: Float32) -> None:
        """Show a number."""
        self.server.publish(**{name: message.data if math.isfinite(message.data) else None})

    def on_command_health(self, message: DiagnosticStatus) -> None:
        """Note that command_node runs, unless it says that it ends."""
        state = {pair.key: pair.value for pair in message.values}.get(STATE)
        self.heartbeat = time.monotonic() - (HEARD if state == "ended" else 0.0)

    def on_planner_health(self, message: DiagnosticStatus) -> None:
        """Show whether planning is enabled."""
        enabled = {pair.key: pair.value for pair in message.values}.get("enabled")
        if enabled is not None and self.enabled != (enabled == "true"):
            self.enabled = enabled == "true"
            self.server.publish(enabled=self.enabled)

    def on_monitor_health(self, message: DiagnosticStatus) -> None:
        """Show what monitor_node warns of, which need not hold the robot."""
        fine = message.level == DiagnosticStatus.OK
        self.server.publish(warning=None if fine else message.message)

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        """Show how long our planner_node plans, and what our monitor_node compares the surprise with."""
        here = self.get_namespace().rstrip("/")
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if status.name == f"{here}/{PLANNER}" and "planning_ms_last" in values:
                self.server.publish(planning=_number(values["planning_ms_last"]))
            if status.name == f"{here}/{MONITOR}" and "surprise_threshold" in values:
                self.server.publish(surprise_threshold=_number(values["surprise_threshold"]))


def encoded(message: Image | CompressedImage) -> bytes:
    """Return a picture as a JPEG or PNG that a browser shows. Raises ImageRejectedError."""
    if isinstance(message, CompressedImage):
        data = bytes(message.data)
        # A mosaic or a depth picture in a file is not what it looks like.
        if len(data) <= PASSED_ON and data.startswith(STARTS) and not _special(message.format):
            return data
    pixels = pixels_of(message)
    height, width = pixels.shape[:2]
    if (longer := max(height, width)) > LARGEST:
        size = max(1, width * LARGEST // longer), max(1, height * LARGEST // longer)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    ending = ".png" if longer <= PLAIN else ".jpg"
    return cv2.imencode(ending, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def _special(stated: str) -> bool:
    return stated.startswith("bayer") or "compresseddepth" in stated.lower()


def _profile(theirs: list) -> QoSProfile:
    """Return a quality of service in which all of these publishers are heard, the newest only."""
    reliable = all(profile.reliability is ReliabilityPolicy.RELIABLE for profile in theirs)
    latched = all(profile.durability is DurabilityPolicy.TRANSIENT_LOCAL for profile in theirs)
    return QoSProfile(
        depth=1,
        # Reliable only where something of the past is to be had: a stream is not repeated for a page.
        reliability=ReliabilityPolicy.RELIABLE if reliable and latched else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _answer(answer: Future, done: bool, sentence: str) -> None:
    if answer.set_running_or_notify_cancel():  # else the page waits no longer
        answer.set_result((done, sentence))


def make_node() -> ViewNode:
    """Return the node, ready to main_loop."""
    return ViewNode()
