"""``python -m world_model_ros.nodes.viewers_cost --task push``: what it costs the planner to be watched.

Starts the simulation and its nodes, and compares windows of time in which imagination, plan/path and
plan/candidates are subscribed to, the page is open in a browser and the recorder records with windows in
which nobody looks and neither runs, in turns. Prints JSON.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path as File

import rclpy
import yaml
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from world_model_ros.errors import UserError
from world_model_ros.model.config import CheckpointSpec, find_checkpoint, read_spec
from world_model_ros.nodes import starter
from world_model_ros.nodes.latency import PLAN_TIMEOUT, running_nodes, shares
from world_model_ros.nodes.messages import nanoseconds
from world_model_ros.nodes.view.access import listen
from world_model_ros.sim.tasks import DEFAULT_TASK, find_task, stated_task

WATCHED = ((Image, "imagination"), (Path, "plan/path"), (MarkerArray, "plan/candidates"))
ASK_AGAIN = 2.0  # seconds for the recorder's answer
ALREADY = "an episode is being recorded already"
SETTLE = 2.0  # seconds after a change of who looks that do not count


def main(words: list[str] | None = None) -> int:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m world_model_ros.nodes.viewers_cost")
    parser.add_argument("--task", default=DEFAULT_TASK)
    parser.add_argument("--checkpoint", help="folder or shipped name; as the task if not given")
    parser.add_argument("--pairs", type=int, default=8, help="windows of each kind")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a window")
    given = parser.parse_args(words)
    checkpoint = str(find_checkpoint(given.checkpoint or given.task).resolve())
    spec = read_spec(checkpoint)
    stated_task(given.task)
    starter.check_page("localhost", 0)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_nodes(checkpoint, given.task, imagination=True) as processes,
    ):
        robot = File(folder, "robot.yaml")
        robot.write_text(yaml.safe_dump(simulated_robot(given.task, spec)))
        print(json.dumps(measure(processes, spec, robot, given.pairs, given.seconds), indent=2))
    return 0


def simulated_robot(task: str, spec: CheckpointSpec) -> dict:
    """Return the robot file of the simulation, whose camera gives a frame for each model step."""
    action = dataclasses.asdict(spec.action)
    described = {name: list(action[name]) for name in ("names", "low", "high")}
    return {
        "name": task.partition(":")[0],
        "period": spec.period,
        "block": spec.block,
        "cameras": {"front": {"topic": "camera/image_raw", "rate": 1 / (spec.period * spec.block)}},
        "joints": {"names": list(find_task(task).joint_names), "topics": ["joint_states"]},
        "actions": described | {name: action[name] for name in ("kind", "unit", "frame")},
    }


class Observer:
    """Everybody who can look: a subscriber of what is drawn, a browser with the page, the recorder."""

    def __init__(self, node: Node, robot: File):
        self.node, self.robot = node, robot
        self.seen = {topic: 0 for _, topic in WATCHED} | {"page": 0}  # messages, and the page's pictures
        self.recording, self.refused, self.opened = False, "", 0

    def count(self, name: str, number: int = 1) -> None:
        """Count what came."""
        self.seen[name] += number

    @contextlib.contextmanager
    def looking(self) -> Iterator[dict[str, subprocess.Popen]]:
        """Look; yields the processes that run for it."""
        self.seen, self.recording, self.refused = dict.fromkeys(self.seen, 0), False, ""
        sockets, nodes = listen("localhost", 0), {}
        port = sockets[0].getsockname()[1]
        for listening in sockets:
            listening.close()
        subscriptions = [
            self.node.create_subscription(kind, topic, functools.partial(self.on_message, topic), 1)
            for kind, topic in WATCHED
        ]
        try:
            nodes["view_node"] = _start("view_node", port=port)
            self.opened += 1
            out = self.robot.with_name(f"recorded_{self.opened}.h5")
            nodes["recorder_node"] = _start(
                "recorder_node", robot=f"'{self.robot}'", out=f"'{out}'", use_sim_time="true"
            )
            browser = threading.Thread(target=lambda: asyncio.run(self.browse(port)), daemon=True)
            browser.start()
            yield nodes
        finally:
            starter.end(nodes.values())
            for subscription in subscriptions:
                self.node.destroy_subscription(subscription)

    def on_message(self, topic: str, _message) -> None:
        """Count a message."""
        self.count(topic)

    async def browse(self, port: int) -> None:
        """Take the page's batches as a browser does, until view_node ends."""
        import aiohttp  # an optional dependency, of the page

        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    page = f"http://localhost:{port}"
                    watching = await session.ws_connect(f"{page}/watch", headers={"Origin": page})
                    break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.1)  # view_node is starting
            async for message in watching:
                if message.type is aiohttp.WSMsgType.TEXT:
                    pictures = json.loads(message.data)["pictures"]
                    for _ in pictures:
                        await watching.receive_bytes()
                    self.count("page", len(pictures))
                    await watching.send_str("shown")

    def record(self) -> Callable[[], bool]:
        """Return what asks the recorder to begin until it does, and tells whether it has."""
        client = self.node.create_client(Trigger, "recorder/start")
        asked, when = None, 0.0

        def begun() -> bool:
            nonlocal asked, when
            if asked and time.monotonic() > when + ASK_AGAIN:
                asked = None  # its answer was lost: a service is found before it has found who asks
            if asked and asked.done():
                self.refused = asked.result().message
                self.recording = asked.result().success or ALREADY in self.refused
                asked = None
            if not self.recording and asked is None and client.service_is_ready():
                asked, when = client.call_async(Trigger.Request()), time.monotonic()
            return self.recording

        return begun


def _start(name: str, **values) -> subprocess.Popen:
    words = [word for key, value in values.items() for word in ("-p", f"{key}:={value}")]
    line = [sys.executable, "-m", "world_model_ros.nodes", name, "--ros-args", *words]
    return starter.spawn(line, stdout=subprocess.DEVNULL)


def measure(processes: dict, spec: CheckpointSpec, robot: File, pairs: int, seconds: float) -> dict:
    """Return medians over windows of plans a second, of ms from picture to plan, and of CPU shares."""
    length = spec.block * round(spec.period * 1e9)
    shown: dict[int, float] = {}  # stamp of a picture -> when it came
    latencies: list[float] = []

    def on_plan(message) -> None:
        came = shown.get(nanoseconds(message.header.stamp) - length)
        latencies.append(float("nan") if came is None else 1e3 * (time.perf_counter() - came))

    def spin(duration: float) -> None:
        end = time.monotonic() + duration
        while time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.05)
            ended = [name for name, process in processes.items() if process.poll() is not None]
            if ended:
                raise UserError(f"{ended[0]} ended: see its message above.")

    def until(condition, what: str) -> None:
        end = time.monotonic() + PLAN_TIMEOUT
        while not condition():
            if time.monotonic() > end:
                why = f": {observer.refused}" if observer.refused else ""
                raise UserError(f"nothing for {PLAN_TIMEOUT:.0f} s, no {what}{why}")
            spin(0.1)

    rclpy.init()
    node = rclpy.create_node("viewers_cost")
    node.create_subscription(
        Image,
        "camera/image_raw",
        lambda message: shown.setdefault(nanoseconds(message.header.stamp), time.perf_counter()),
        qos_profile_sensor_data,
    )
    node.create_subscription(JointTrajectory, "plan", on_plan, 10)
    windows: dict[str, list[dict]] = {"closed": [], "open": []}
    observer = Observer(node, robot)

    def window() -> dict:
        spin(SETTLE)
        latencies.clear()
        before, began = dict(observer.seen), time.perf_counter()
        cpu = shares(processes, lambda: spin(seconds))
        passed = time.perf_counter() - began
        plans = len(latencies) / passed
        return {
            "plans": plans,
            "cpu": cpu,
            "work": 1e3 * cpu["planner_node"] / max(plans, 1e-9),
            "latency": statistics.median([x for x in latencies if x == x] or [float("nan")]),
            "pictures": (observer.seen["imagination"] - before["imagination"]) / passed,
            "page": (observer.seen["page"] - before["page"]) / passed,
        }

    try:
        until(lambda: latencies, "plan")
        for index in range(pairs + 1):  # the first of each does not count: the model is loaded in it
            closed = window()
            with observer.looking() as nodes:
                processes |= nodes
                until(observer.record(), "start of the recorder")
                until(lambda: all(observer.seen.values()), "picture: does the checkpoint have a decoder?")
                opened = window()
                for name in nodes:
                    del processes[name]
            for kind, measured in (("closed", closed), ("open", opened)):
                if index:
                    windows[kind].append(measured)
                    print(f"{kind:6}  {measured['plans']:.3f} plans/s", file=sys.stderr)
    finally:
        rclpy.try_shutdown()
    return summary(windows)


def summary(windows: dict[str, list[dict]]) -> dict:
    """Return the medians of both kinds of windows, and that of the pairs' ratios of plans a second."""

    def median(kind: str, name: str) -> float:
        return round(statistics.median(window[name] for window in windows[kind]), 3)

    result: dict = {
        kind: {
            "plans_per_second": median(kind, "plans"),
            "picture_to_plan_ms": median(kind, "latency"),
            "planner_cpu_ms_per_plan": median(kind, "work"),
            "pictures_per_second": median(kind, "pictures"),
            "page_pictures_per_second": median(kind, "page"),
            "cpu": {
                name: round(statistics.median(window["cpu"][name] for window in windows[kind]), 3)
                for name in windows[kind][0]["cpu"]
            },
        }
        for kind in windows
    }
    pairs = list(zip(windows["open"], windows["closed"], strict=True))
    for name, key in (("plans_per_second", "plans"), ("planner_cpu_ms_per_plan", "work")):
        ratios = [a[key] / b[key] for a, b in pairs if b[key]]
        result[f"{name}_open_to_closed"] = round(statistics.median(ratios), 4)
    return result | {"windows": len(windows["open"])}


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
