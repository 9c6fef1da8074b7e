"""view_node on real topics and services: what it shows, what its buttons do, and how it ends."""

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

aiohttp = pytest.importorskip("aiohttp", reason="the page needs aiohttp, the extra view")
pytestmark = pytest.mark.ros


class Viewer:
    """Watches the page as a browser does: ``values`` has the newest of everything."""

    def __init__(self, port):
        self.origin = f"http://localhost:{port}"
        self.values = {}
        self.begun = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.watch()))
        self.thread.start()

    async def watch(self):
        self.loop, self.leaving = asyncio.get_running_loop(), asyncio.Event()
        self.begun.set()
        async with (
            aiohttp.ClientSession(self.origin, headers={"Origin": self.origin}) as session,
            session.ws_connect("/watch") as watching,
        ):
            leaving = asyncio.ensure_future(self.leaving.wait())
            taking = asyncio.ensure_future(self.take(watching))
            await asyncio.wait([leaving, taking], return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            taking.cancel()

    async def take(self, watching):
        async for message in watching:
            head = json.loads(message.data)
            pictures = {name: await watching.receive_bytes() for name in head["pictures"]}
            self.values |= head["values"] | pictures
            await watching.send_str("shown")

    def leave(self):
        self.begun.wait()
        with contextlib.suppress(RuntimeError):  # it has left
            self.loop.call_soon_threadsafe(self.leaving.set)
        self.thread.join()


@pytest.fixture
def start(processes, observer):
    """Return a function that starts view_node, and returns (process, port)."""

    def begin(**parameters):
        process = processes.node("view_node", config=False, port=0, **parameters)
        found = []

        def ready():
            found[:] = re.findall(r"open http://localhost:(\d+)/", process.log.read_text())
            return found or process.poll() is not None

        observer.until(ready)
        assert found, process.log.read_text()
        return process, int(found[0])

    return begin


def press(port, button):
    """Press a button as the page does; return (done, message)."""
    connection = http.client.HTTPConnection("localhost", port, timeout=30)
    connection.request("POST", f"/press/{button}", headers={"Origin": f"http://localhost:{port}"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["done"], answer["message"]


def subscribed(observer):
    """Return the topics of a robot that view_node subscribes to."""
    from rclpy.node import NodeNameNonExistentError

    try:
        topics = observer.node.get_subscriber_names_and_types_by_node("view_node", "/")
    except NodeNameNonExistentError:
        return None
    return {name for name, _ in topics} - {"/parameter_events", "/clock"}


def test_it_shows_what_is_published_while_somebody_watches_and_subscribes_to_nothing_else(observer, start):
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CompressedImage, Image
    from std_msgs.msg import Float32, String

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    node = observer.node
    camera = node.create_publisher(Image, "camera/image_raw", best_effort)
    strip = node.create_publisher(CompressedImage, "imagination/compressed", 10)
    goal = node.create_publisher(Image, "goal/image", latched)
    status = node.create_publisher(String, "status", latched)
    health = node.create_publisher(DiagnosticStatus, "command_node/health", latched)
    monitor = node.create_publisher(DiagnosticStatus, "monitor_node/health", latched)
    surprise = node.create_publisher(Float32, "surprise", 10)
    distance = node.create_publisher(Float32, "goal/distance", 10)
    diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    image = Image(height=4, width=4, encoding="rgb8", step=12, data=pixels.tobytes())
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    goal.publish(image)  # of the past, as is the status
    status.publish(String(data="RUNNING: playing the plan"))

    warned = DiagnosticStatus(level=DiagnosticStatus.WARN, message="the glass will fall: 1.25 s from now")

    def publish():
        camera.publish(image)
        strip.publish(CompressedImage(format="jpeg", data=jpeg))
        health.publish(DiagnosticStatus())
        monitor.publish(warned)
        surprise.publish(Float32(data=float("nan")))
        distance.publish(Float32(data=4.0))
        values = {"/planner_node": "planning_ms_last", "/other/planner_node": "planning_ms_last"}
        values |= {"/monitor_node": "surprise_threshold"}
        report = [
            DiagnosticStatus(name=name, values=[KeyValue(key=key, value="1" if "other" in name else "2.5")])
            for name, key in values.items()
        ]
        diagnostics.publish(DiagnosticArray(status=report))

    process, port = start()
    observer.until(lambda: subscribed(observer) is not None)
    observer.repeat(publish, 10)
    assert subscribed(observer) == set()
    one, other = Viewer(port), Viewer(port)
    shown = ("camera", "goal", "imagination", "status", "warning", "surprise", "distance", "planning")
    try:
        for viewer in (one, other):
            observer.until(lambda v=viewer: all(name in v.values for name in shown), again=publish)
            observer.until(lambda v=viewer: v.values["heard"], again=publish)
        values = one.values
        assert values["status"] == "RUNNING: playing the plan"
        assert values["imagination"] == jpeg  # as it came
        assert values["warning"] == "the glass will fall: 1.25 s from now"
        warned.level = DiagnosticStatus.OK
        observer.until(lambda: values["warning"] is None, again=publish)
        for name in ("camera", "goal"):
            decoded = cv2.imdecode(np.frombuffer(values[name], np.uint8), cv2.IMREAD_COLOR)
            assert np.array_equal(decoded[..., ::-1], pixels)
        assert values["surprise"] is None
        numbers = [values[name] for name in ("distance", "planning", "surprise_threshold")]
        assert numbers == [4.0, 2.5, 2.5]
        assert values["offered"]["reset"] is False
        assert values["stop_heard"] is False
        # What is no longer published is said.
        node.destroy_publisher(strip)
        observer.until(lambda: (values["imagination_missing"] or "").startswith("Nobody publishes"))
        observer.until(lambda: values["heard"] is False)  # nor is the heartbeat
        one.leave()
        observer.until(lambda: "/camera/image_raw" in subscribed(observer))
        other.leave()
        observer.until(lambda: subscribed(observer) == set())
        one = Viewer(port)
        observer.until(lambda: one.values.get("status"))
        process.send_signal(signal.SIGINT)
        observer.until(lambda: process.poll() is not None)
    finally:
        one.leave()
        other.leave()
    log = process.log.read_text()
    assert process.returncode == 0, log
    assert len(log.splitlines()) == 1, log


def test_a_page_that_hangs_holds_nobody_up_and_all_end_together(processes, observer, checkpoint):
    from sensor_msgs.msg import JointState

    executed = observer.collect(JointState, "command/executed", 1)
    sim = processes.sim("--view", "view_port:=0", "--checkpoint", checkpoint)
    observer.until(lambda: "localhost:" in sim.log.read_text())
    port = int(re.search(r"localhost:(\d+)", sim.log.read_text())[1])
    viewer = Viewer(port)
    try:
        observer.until(lambda: (viewer.values.get("status") or "").startswith("RUNNING"))
        processes.kill("view_node", signal.SIGSTOP)
        begin = len(executed)
        observer.until(lambda: len(executed) > begin + 60)
        processes.kill("view_node", signal.SIGCONT)
        viewer.values["heard"] = None

        def heard():
            nonlocal viewer
            if not viewer.thread.is_alive():  # a page that hangs for long ends its viewers
                viewer = Viewer(port)
            return viewer.values.get("heard")

        observer.until(heard)
        sim.send_signal(signal.SIGINT)
        processes.ends_within(sim, 3.0, observer.spin)
    finally:
        viewer.leave()
    assert processes.alive() == []
    log = sim.log.read_text()
    assert sim.returncode == 130, log
    assert "Traceback" not in log


def test_a_goal_from_the_camera_is_shown_as_the_goal_until_another_one_is_published(observer, start):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import Image
    from std_srvs.srv import Trigger

    def image(value):
        return Image(height=1, width=1, encoding="mono8", step=1, data=bytes([value]))

    def shows(viewer, value, note):
        picture = viewer.values.get("goal")
        found = picture and cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_GRAYSCALE)[0, 0]
        return found == value and viewer.values.get("goal_note") == note

    def take(_request, response):
        response.success = True
        return response

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    goal = observer.node.create_publisher(Image, "goal/image", latched)
    camera = observer.node.create_publisher(Image, "camera/image_raw", 10)
    observer.node.create_service(Trigger, "planner/goal_from_camera", take)
    goal.publish(image(1))
    _, port = start()
    viewer = Viewer(port)
    try:
        observer.until(lambda: shows(viewer, 1, None))
        observer.until(lambda: "camera" in viewer.values, again=lambda: camera.publish(image(2)))
        observer.until(lambda: viewer.values["offered"]["goal_from_camera"])
        with ThreadPoolExecutor() as threads:
            answer = threads.submit(press, port, "goal_from_camera")
            observer.until(answer.done)
        observer.until(lambda: shows(viewer, 2, "taken from the camera"))
        viewer.leave()
        observer.until(lambda: subscribed(observer) == set())
        viewer = Viewer(port)  # is sent the published one again, which is no longer the goal
        observer.until(lambda: shows(viewer, 2, "taken from the camera"))
        goal.publish(image(1))
        observer.until(lambda: shows(viewer, 1, None))
    finally:
        viewer.leave()


def test_every_button_calls_its_service_and_the_stop_goes_out_by_topic_too(observer, start):
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from std_msgs.msg import Bool
    from std_srvs.srv import SetBool, Trigger

    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    stops = observer.collect(Bool, "command/emergency_stop", best_effort)
    calls = []
    _, port = start()
    observer.until(lambda: observer.node.count_publishers("command/emergency_stop"))

    with ThreadPoolExecutor() as threads:

        def pressed(button):
            answer = threads.submit(press, port, button)
            observer.until(answer.done)
            return answer.result()

        observer.until(lambda: not pressed("stop")[0] and stops)  # until the two have found each other
        done, why = pressed("enable")
        assert not done
        assert "nobody offers the service /planner/enable" in why

        def offer(kind, name):
            def answer(request, response):
                calls.append((name, getattr(request, "data", None)))
                response.success, response.message = name != "command/release", f"{name} did"
                return response

            observer.node.create_service(kind, name, answer)

        buttons = {
            "stop": ("command/emergency_stop", None),
            "new_goal": ("sim/new_goal", None),
            "goal_from_camera": ("planner/goal_from_camera", None),
            "enable": ("planner/enable", True),
            "disable": ("planner/enable", False),
            "reset": ("command/reset", None),
            "release": ("command/release", None),
        }
        for name in sorted({service for service, _ in buttons.values()}):
            offer(SetBool if name == "planner/enable" else Trigger, name)
        for button, call in buttons.items():
            observer.until(lambda b=button: "nobody" not in pressed(b)[1])
            calls.clear()
            stops.clear()
            assert pressed(button) == (button != "release", f"{call[0]} did")
            assert calls == [call]
            assert [message.data for message in stops] == [True] * (button == "stop")


@pytest.mark.parametrize("words", ["view_node", "verb", "sim"])
def test_a_port_that_is_taken_is_one_sentence_and_exit_code_two(processes, checkpoint, words):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if words == "view_node":
            process = processes.node("view_node", config=False, port=port)
        elif words == "verb":
            process = processes.start("-m", "world_model_ros", "view", "--port", str(port))
        else:
            process = processes.sim("--view", f"view_port:={port}", "--checkpoint", checkpoint)
        process.wait(timeout=60)
    log = process.log.read_text()
    assert process.returncode == 2, log
    assert log.count("\n") == 1
    assert f"port {port} of localhost, for the page, is used by another program" in log


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--host", "no-such-host.invalid"], "cannot find"),
        (["--port", "70000"], "give a number from 0 to 65535"),
        (["--namespace", "two words"], "--namespace is 'two words'"),
        (["--camera", "two words"], "--camera is 'two words'"),
    ],
)
def test_options_that_cannot_be_are_one_sentence_and_exit_code_two(processes, options, expected):
    process = processes.start("-m", "world_model_ros", "view", "--port", "0", *options)
    process.wait(timeout=60)
    log = process.log.read_text()
    assert process.returncode == 2, log
    assert expected in log
    assert log.count("\n") == 1, log


def test_the_verb_shows_a_robot_in_a_namespace_with_its_own_camera(processes, observer):
    from sensor_msgs.msg import Image

    camera = observer.node.create_publisher(Image, "front/image", 10)
    image = Image(height=1, width=1, encoding="rgb8", step=3, data=bytes(3))
    words = ("--port", "0", "--namespace", "left", "--camera", "/front/image")
    process = processes.start("-m", "world_model_ros", "view", *words)
    observer.until(lambda: "localhost:" in process.log.read_text())
    viewer = Viewer(int(re.search(r"localhost:(\d+)", process.log.read_text())[1]))
    try:
        observer.until(lambda: "camera" in viewer.values, again=lambda: camera.publish(image))
        assert "/left/goal/image" in viewer.values["goal_missing"]
    finally:
        viewer.leave()
    process.send_signal(signal.SIGINT)
    processes.ends_within(process, 2.0)
    assert process.returncode == 0


def test_pictures_become_files_that_a_browser_shows():
    from sensor_msgs.msg import CompressedImage, Image

    from world_model_ros.camera.images import ImageRejectedError
    from world_model_ros.nodes.view_node import LARGEST, encoded

    large = encoded(Image(height=10, width=4000, encoding="mono8", step=4000, data=bytes(40000)))
    assert large.startswith(b"\xff\xd8\xff")
    assert cv2.imdecode(np.frombuffer(large, np.uint8), 1).shape == (4, LARGEST, 3)
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    heavy = cv2.imencode(".png", noise)[1].tobytes()
    again = encoded(CompressedImage(format="png", data=heavy))
    assert again.startswith(b"\xff\xd8\xff")
    assert len(again) < len(heavy)
    for message in (
        Image(height=1, width=1, encoding="32FC1", step=4, data=bytes(4)),
        CompressedImage(format="16UC1; compressedDepth png", data=heavy),
        CompressedImage(format="jpeg", data=b"<script>"),
    ):
        with pytest.raises(ImageRejectedError):
            encoded(message)
