"""``python -m world_model_ros.nodes.viewers_cost --task push``: what it costs the planner to be watched.

Starts the simulation and its nodes, and compares windows of time in which imagination, plan/path and
plan/candidates are subscribed to with windows in which nobody looks, in turns. Prints JSON.
"""

import argparse
import json
import statistics
import sys
import time

import rclpy
from nav_msgs.msg import Path
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from world_model_ros.errors import UserError
from world_model_ros.model.config import find_checkpoint, read_spec
from world_model_ros.nodes.latency import PLAN_TIMEOUT, running_nodes, shares
from world_model_ros.nodes.messages import nanoseconds
from world_model_ros.sim.tasks import DEFAULT_TASK, stated_task

WATCHED = ((Image, "imagination"), (Path, "plan/path"), (MarkerArray, "plan/candidates"))
SETTLE = 2.0  # seconds after a change of subscribers that do not count


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
    with running_nodes(checkpoint, given.task, imagination=True) as processes:
        print(json.dumps(measure(processes, spec, given.pairs, given.seconds), indent=2))
    return 0


def measure(processes: dict, spec, pairs: int, seconds: float) -> dict:
    """Return medians over windows of plans a second, of ms from picture to plan, and of CPU shares."""
    length = spec.block * round(spec.period * 1e9)
    shown: dict[int, float] = {}  # stamp of a picture -> when it came
    latencies: list[float] = []
    seen = {topic: 0 for _, topic in WATCHED}

    def on_plan(message) -> None:
        came = shown.get(nanoseconds(message.header.stamp) - length)
        latencies.append(float("nan") if came is None else 1e3 * (time.perf_counter() - came))

    def count(topic: str) -> None:
        seen[topic] += 1

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
                raise UserError(f"no {what} for {PLAN_TIMEOUT:.0f} s: does the checkpoint have a decoder?")
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
    try:
        until(lambda: latencies, "plan")
        for index in range(2 * pairs + 2):  # the first of each does not count: the model is loaded in it
            watching = bool(index % 2)
            opened = []
            if watching:
                seen = dict.fromkeys(seen, 0)
                opened = [
                    node.create_subscription(kind, topic, lambda _, topic=topic: count(topic), 1)
                    for kind, topic in WATCHED
                ]
                until(lambda: all(seen.values()), "picture")  # noqa: B023
            spin(SETTLE)
            latencies.clear()
            before, began = dict(seen), time.perf_counter()
            cpu = shares(processes, lambda: spin(seconds))
            passed = time.perf_counter() - began
            if index > 1:
                window = {"plans": len(latencies) / passed, "cpu": cpu}
                window["work"] = 1e3 * cpu["planner_node"] / max(window["plans"], 1e-9)
                window["latency"] = statistics.median([x for x in latencies if x == x] or [float("nan")])
                window["pictures"] = (seen["imagination"] - before["imagination"]) / passed
                windows["open" if watching else "closed"].append(window)
                print(f"{'open' if watching else 'closed':6}  {window['plans']:.3f} plans/s", file=sys.stderr)
            for subscription in opened:
                node.destroy_subscription(subscription)
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
