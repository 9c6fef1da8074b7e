"""Latency from camera to plan over real DDS: the simulation and its nodes as processes."""

import contextlib
import fcntl
import importlib.util
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from world_model_ros.errors import UserError
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.monitoring.statistics import percentiles
from world_model_ros.sim.tasks import stated_task

WARM_UP = 3  # plans that do not count
IDLE_SECONDS = 5.0
PLAN_TIMEOUT = 60.0  # seconds without a plan
_DOMAINS = range(90, 102)  # not those of the tests; Linux hands out the ports of higher ones to anybody


def measure(checkpoint: str, spec: CheckpointSpec, plans: int) -> dict:
    """Return percentiles of the time between a camera picture and the plan made from it, in ms of real time.

    Both are taken where a third process hears of them, so the way of both messages through DDS is in it.
    ``cpu`` is each node's share of a core while planning, ``idle_cpu`` while no picture comes.
    Raises UserError where ROS 2 is missing, the checkpoint is of no simulated task, or a node ends.
    """
    if importlib.util.find_spec("rclpy") is None:
        raise UserError("the pipeline needs ROS 2: make setup installs it, or source one.")
    task = spec.training.get("task")
    if not task:
        raise UserError(f"{checkpoint} is of no simulated task: measure its other parts with --only.")
    stated_task(task)
    with running_nodes(checkpoint, task) as processes:
        latencies, cpu = _watch(processes, spec, plans)
        simulation = processes["sim_node"]
        simulation.send_signal(signal.SIGSTOP)  # no more pictures
        idle = shares(processes, lambda: time.sleep(IDLE_SECONDS))
        simulation.send_signal(signal.SIGCONT)
    return {**percentiles(np.array(latencies)), "cpu": cpu, "idle_cpu": idle}


@contextlib.contextmanager
def running_nodes(
    checkpoint: str, task: str, imagination: bool = False
) -> Iterator[dict[str, subprocess.Popen]]:
    """Run the simulation at the speed of a real robot, in a domain of its own; end it afterwards."""
    from world_model_ros.nodes import environment, starter

    environment.prepare(local=True)
    values = starter.DEFAULTS | {"task": task, "checkpoint": checkpoint}
    values |= {"imagination": str(imagination).lower()}
    starter.check(values)
    processes = {}
    with free_domain() as domain:
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        try:
            for name, line in starter.commands(values).items():
                processes[name] = starter.spawn(line, stdout=subprocess.DEVNULL)
            yield processes
        finally:
            starter.end(processes.values())


@contextlib.contextmanager
def free_domain() -> Iterator[int]:
    """Hold a ROS_DOMAIN_ID in which nothing else on this computer is measured, by a locked file.

    Raises UserError where all are held.
    """
    for number in _DOMAINS:
        path = Path(tempfile.gettempdir()) / f"world_model_ros_measured_{number}.lock"
        try:
            file = path.open("a")
        except PermissionError:  # another user's
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield number
            return
    raise UserError(f"{len(_DOMAINS)} measurements run on this computer already: wait until one has ended.")


def _watch(processes: dict, spec: CheckpointSpec, plans: int) -> tuple[list[float], dict[str, float]]:
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image
    from trajectory_msgs.msg import JointTrajectory

    length = spec.block * round(spec.period * 1e9)
    heard: dict[int, float] = {}  # stamp of a picture -> when it came
    latencies: list[float] = []

    def stamp(message) -> int:
        return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec

    def on_plan(message) -> None:
        # A plan is due when the block ends that its picture saw begin.
        shown = heard.get(stamp(message) - length)
        if shown is not None:
            latencies.append(1e3 * (time.perf_counter() - shown))

    rclpy.init()
    try:
        node = rclpy.create_node("benchmark")
        node.create_subscription(
            Image,
            "camera/image_raw",
            lambda message: heard.setdefault(stamp(message), time.perf_counter()),
            qos_profile_sensor_data,
        )
        node.create_subscription(JointTrajectory, "plan", on_plan, 10)

        def until(count: int) -> None:
            last, seen = time.monotonic(), len(latencies)
            while len(latencies) < count:
                rclpy.spin_once(node, timeout_sec=0.05)
                ended = [name for name, process in processes.items() if process.poll() is not None]
                if ended:
                    raise UserError(f"{ended[0]} ended: see its message above.")
                if len(latencies) > seen:
                    last, seen = time.monotonic(), len(latencies)
                if time.monotonic() - last > PLAN_TIMEOUT:
                    raise UserError(
                        f"no plan for {PLAN_TIMEOUT:.0f} s: is another simulation in this domain?"
                    )

        until(WARM_UP)
        cpu = shares(processes, lambda: until(WARM_UP + plans))
        return latencies[WARM_UP:], cpu
    finally:
        rclpy.try_shutdown()


def shares(processes: dict[str, subprocess.Popen], wait) -> dict[str, float]:
    """Return the share of a core that each process takes while ``wait()`` runs."""
    began, before = time.perf_counter(), {name: _seconds(p.pid) for name, p in processes.items()}
    wait()
    passed = time.perf_counter() - began
    return {name: (_seconds(p.pid) - before[name]) / passed for name, p in processes.items()}


def _seconds(pid: int) -> float:
    """Return the CPU time of a process so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
