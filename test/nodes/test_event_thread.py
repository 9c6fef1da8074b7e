"""A process in which Fast DDS waits for itself for ever stops the robot, and ends to be started again."""

import ctypes
import fcntl
import itertools
import os
import threading
import time
from pathlib import Path

import pytest

from world_model_ros.nodes import environment
from world_model_ros.nodes.event_thread import LOOK, STUCK, EventThreads, event_threads, waits_without_end

pytestmark = [pytest.mark.ros, pytest.mark.fault]
# A thread that the kernel calls one of Fast DDS, and that waits for a lock which nobody releases: what the
# deadlock is, from outside. Fast DDS itself comes to it by chance only.
WAITS = """
import ctypes, pathlib, threading, time
from rclpy.node import Node
def for_ever(*_):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
def wait_for_itself(trigger):
    ctypes.CDLL(None).prctl(15, b"dds.ev.99", 0, 0, 0)
    while not pathlib.Path(trigger).exists():
        time.sleep(0.05)
    Node.destroy_subscription = Node.destroy_publisher = Node.destroy_node = for_ever
    for_ever()
"""
DEAF = """
import importlib, sys
name, trigger = sys.argv[1], sys.argv.pop(2)
sys.argv.pop(0)
from world_model_ros.nodes import environment
environment.prepare()
from world_model_ros.nodes import running
%s
threading.Thread(target=wait_for_itself, args=(trigger,), daemon=True).start()
running.run(importlib.import_module(f"world_model_ros.nodes.{name}").make_node)
"""
# A node that waits for ever at its end, and one whose main loop does, with the GIL held.
ENDLESS = """
import threading
from world_model_ros.nodes import environment
environment.prepare()
from world_model_ros.nodes import monitor_node, running
monitor_node.MonitorNode.destroy_node = lambda self: threading.Event().wait()
running.CLOSING = 1
running.run(monitor_node.make_node)
"""
HUNG = """
import ctypes
from world_model_ros.nodes import environment
environment.prepare()
from world_model_ros.nodes import running, view_node
view_node.ViewNode.look = lambda self: ctypes.PyDLL(None).sleep(1000)
view_node.HUNG = 2
running.run(view_node.make_node)
"""


@pytest.fixture
def deaf_node(processes, tmp_path):
    """Return a function that starts a node, and one after whose call it is deaf."""
    script, trigger = tmp_path / "deaf.py", tmp_path / "now"
    script.write_text(DEAF % WAITS)

    def start(name, **parameters):
        words = itertools.chain.from_iterable(("-p", f"{key}:={value}") for key, value in parameters.items())
        return processes.start(str(script), name, str(trigger), "--ros-args", *words)

    return start, trigger.touch


@pytest.fixture
def deaf_command(deaf_node, start_command, monkeypatch, processes):
    """Return a function that starts such a command_node for a Robot."""

    def start(robot):
        with monkeypatch.context() as patch:
            patch.setattr(processes, "node", lambda name, config, **values: deaf_node[0](name, **values))
            return start_command(robot)

    return start


def test_fault_62_a_deaf_command_node_stops_the_robot_and_so_does_its_successor(
    any_robot, observer, start_command, deaf_node, deaf_command, ask
):
    _, make_deaf = deaf_node
    node = deaf_command(any_robot)
    any_robot.get_moving()
    make_deaf()
    observer.until(lambda: node.poll() is not None, again=any_robot.drive)
    ended, log = time.time_ns(), node.log.read_text()
    assert node.returncode == 4, log
    assert "hears of no new node any more" in log
    assert "issue 6502: command_node may have missed an emergency stop" in log
    observer.until(lambda: not any_robot.moving())
    any_robot.status.clear()
    start_command(any_robot)
    observer.until(
        lambda: any_robot.state() == "FAULT" and "the process before this one may have" in any_robot.reason(),
        again=any_robot.drive,
    )
    any_robot.stands(again=any_robot.drive)
    assert not any(map(any_robot.moves, any_robot.since(ended, "commands")))
    assert ask.trigger("command/reset").success
    any_robot.get_moving()


@pytest.mark.parametrize(
    "name",
    [
        "sim_node",
        "encoder_node",
        "planner_node",
        "monitor_node",
        "imagination_node",
        "view_node",
        "recorder_node",
    ],
)
def test_fault_62_every_other_deaf_node_ends(processes, observer, checkpoint, deaf_node, tmp_path, name):
    start, make_deaf = deaf_node
    others = {
        "view_node": {"port": 0},
        "sim_node": {},
        "recorder_node": {"robot": environment.share() / "config" / "robot.yaml", "out": tmp_path / "a.h5"},
    }
    node = start(name, **others.get(name, {"checkpoint": checkpoint}))
    observer.until(lambda: name in observer.node.get_node_names())
    make_deaf()
    observer.until(lambda: node.poll() is not None)
    log = node.log.read_text()
    assert node.returncode == 4, log
    assert "hears of no new node any more" in log
    assert "Traceback" not in log


def test_a_node_that_waits_for_ever_at_its_end_is_ended(processes, observer, checkpoint, tmp_path):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    node = processes.start(str(script), "--ros-args", "-p", f"checkpoint:={checkpoint}")
    end = ChangeState.Request(transition=Transition(label="shutdown"))
    observer.until(
        lambda: node.poll() is not None,  # its answer may be lost
        again=lambda: observer.ask_once(ChangeState, "monitor_node/change_state", end),
    )
    assert node.returncode == -14


def test_a_page_whose_node_hangs_is_ended(processes, observer, tmp_path):
    script = tmp_path / "hung.py"
    script.write_text(HUNG)
    node = processes.start(str(script), "--ros-args", "-p", "port:=0")
    observer.until(lambda: node.poll() is not None)
    assert node.returncode == -14


def test_a_command_node_that_has_moved_nothing_or_is_released_keeps_no_stop(
    robot, observer, start_command, deaf_node, deaf_command, ask
):
    _, make_deaf = deaf_node
    for released in (False, True):
        node = deaf_command(robot)
        if released:
            robot.get_moving()
            assert ask.trigger("command/release").success
            observer.until(lambda: robot.state() == "RELEASED", again=robot.drive)
        else:
            observer.until(lambda: robot.state() == "READY", again=robot.supply)
        make_deaf()
        observer.until(lambda n=node: n.poll() is not None, again=robot.supply)
        assert node.returncode == 4, node.log.read_text()
        assert "emergency" not in node.log.read_text()
        make_deaf.__self__.unlink()
        robot.status.clear()
    start_command(robot)
    observer.until(lambda: robot.state() == "RELEASED", again=robot.drive)
    assert ask.trigger("command/reset").success
    robot.get_moving()


class Waiter:
    """A thread of this process with a name, of which ``act`` is called until it is let go."""

    def __init__(self, name, act):
        self.tid, self.there, self.gone, self.times = 0, threading.Event(), False, 0

        def run():
            ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)
            self.tid = threading.get_native_id()
            self.there.set()
            while not self.gone:
                act()
                self.times += 1

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        self.there.wait()


@pytest.fixture
def lock():
    held = threading.Lock()
    held.acquire()
    yield held
    held.release()


def stuck(looks=STUCK):
    watch = EventThreads()
    return any(watch.stuck(1 + LOOK * look) for look in range(looks + 1))


def waiting(waiter, until=60):
    """Wait until the kernel says that it waits for its lock."""
    (thread,) = [path for path in event_threads() if path.name == str(waiter.tid)]
    end = time.monotonic() + until
    while not waits_without_end(thread):
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_thread_that_waits_for_a_lock_is_stuck_after_the_last_look(lock):
    waiter = Waiter("dds.ev.9", lambda: lock.acquire() and lock.release())
    waiter.gone = True
    waiting(waiter)
    assert not stuck(STUCK - 1)
    assert stuck()
    watch = EventThreads()
    assert not any(watch.stuck(1 + 0.01 * look) for look in range(10 * STUCK))  # no look counts twice


def test_a_lock_that_is_released_and_waited_for_again_is_not_stuck():
    lock = threading.Lock()
    lock.acquire()
    waiter, watch = Waiter("dds.ev.9", lock.acquire), EventThreads()
    try:
        for look in range(3 * STUCK):
            waiting(waiter)
            assert not watch.stuck(1 + LOOK * look)
            times = waiter.times
            lock.release()
            while waiter.times == times:
                time.sleep(0.001)
    finally:
        waiter.gone = True
        lock.release()


@pytest.mark.parametrize(
    ("name", "seconds"), [("dds.ev.9", 60), ("dds.ev.9", 0.0001), ("dds.udp.9", -1)], ids=str
)
def test_who_waits_for_a_time_wakes_or_is_another_thread_is_not_stuck(lock, name, seconds):
    waiter = Waiter(name, lambda: lock.acquire(timeout=seconds) and lock.release())
    try:
        assert not stuck()
    finally:
        waiter.gone = True


def test_an_observer_whose_event_thread_waits_for_ever_stays_and_keeps_its_domain():
    from test.observer import Observer
    from test.processes import Domain

    pytest.importorskip("rclpy", reason="ROS 2 is not here: make setup installs it, or source one")
    lock, domain = threading.Lock(), Domain.claim()
    lock.acquire()
    thread = threading.Thread(target=lock.acquire, daemon=True)
    thread.start()
    observer = Observer(domain)
    assert observer.event_threads
    assert not observer.is_stuck()
    theirs, observer.event_threads = observer.event_threads, [Path(f"/proc/self/task/{thread.native_id}")]
    observer.close()
    domain.release()
    assert observer.node.get_node_names() == ["observer"]  # not destroyed
    with pytest.raises(BlockingIOError), domain.file.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.release()
    thread.join()
    os.close(observer.lock)
    observer.event_threads = theirs
    observer.close()
