"""Starts the processes of tests as forks of one that has imported everything: a second of work less for each.

What is forked is a process like any other: it has a session, a log and an environment of its own, and can be
stopped and killed. Nothing has begun in the server that a fork would tear apart: no thread, no ROS 2 context.
"""

import contextlib
import ctypes
import io
import json
import os
import random
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PRELOADED = (
    *("sim_node", "encoder_node", "planner_node", "command_node", "monitor_node"),
    *("imagination_node", "recorder_node", "running"),
)
MESSAGES = (  # packages of messages that every node speaks in
    *("builtin_interfaces", "diagnostic_msgs", "geometry_msgs", "lifecycle_msgs", "rcl_interfaces"),
    *("rosgraph_msgs", "sensor_msgs", "service_msgs", "std_msgs", "std_srvs", "trajectory_msgs"),
)
REQUEST = 1 << 20  # bytes at most


def end_with_parent():
    """Let a process end with its parent, also where that is killed and leaves nothing in order."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Forked:
    """A running process, by the methods of subprocess.Popen that tests use."""

    def __init__(self, pid, words, ending):
        self.pid, self.args, self.returncode = pid, words, None
        self._ending = ending  # the read end of a pipe: the exit status comes through it

    def poll(self):
        """Return the exit code, None while it runs."""
        return self._look(0.0)

    def wait(self, timeout=None):
        """Return the exit code. Raises subprocess.TimeoutExpired."""
        if self._look(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _look(self, timeout):
        if self.returncode is None and select.select([self._ending], [], [], timeout)[0]:
            self.returncode = int(os.read(self._ending, 100) or -signal.SIGKILL)
            os.close(self._ending)
        return self.returncode

    def send_signal(self, number):
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self):
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The server, seen from the test process."""

    def __init__(self, environment):
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def start(self, words, environment, log, kept):
        """Run ``python <words>``, its output going to the descriptor ``log``; it inherits ``kept``."""
        ending, theirs = os.pipe()
        request = json.dumps({"words": words, "environment": environment}).encode()
        socket.send_fds(self.connection, [request], [log, kept, theirs])
        os.close(theirs)
        pid = int(self.connection.recv(100))
        return Forked(pid, [sys.executable, *words], ending)

    def close(self):
        """End the server."""
        self.connection.close()
        self.process.wait()


def preload():
    """Import what the tests' processes do."""
    import importlib

    for name in PRELOADED:
        importlib.import_module(f"world_model_ros.nodes.{name}")
    importlib.import_module("numpy.ma")  # numpy's own imports of a first call
    # What rclpy loads where the first publisher or subscription of a package is made.
    from rosidl_generator_py import import_type_support

    for package in MESSAGES:
        import_type_support(package)


def serve(connection):
    """Fork a process for each request; in the fork, return the request with its descriptors."""
    running = {}  # what tells that a process has ended -> its pid, and where its exit code goes
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj in running:
                    pid, ending = running.pop(key.fileobj)
                    selector.unregister(key.fileobj)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(BrokenPipeError):
                        os.write(ending, str(code).encode())
                    os.close(ending)
                    os.close(key.fileobj)
                    continue
                request, files, _, _ = socket.recv_fds(connection, REQUEST, 3)
                if not request:
                    raise SystemExit
                pid = os.fork()
                if pid == 0:
                    return json.loads(request), files
                log, kept, ending = files
                os.close(log)
                os.close(kept)
                ended = os.pidfd_open(pid)
                selector.register(ended, selectors.EVENT_READ)
                running[ended] = pid, ending
                connection.send(str(pid).encode())


def become(words, environment, log, kept):
    """Be ``python <words>`` from here on."""
    end_with_parent()
    os.setsid()
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(int(name))
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w"), write_through=True) for n in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    np.random.seed()
    # As a new process finds them; world_model_ros.nodes.__main__ sets its own where it is imported.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.modules.pop("world_model_ros.nodes.__main__", None)
    option, what, *others = words
    sys.argv = [option, *others]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder, whose modules would hide others
    preload()
    REQUESTED, (LOG, KEPT, _) = serve(socket.socket(fileno=int(sys.argv[1])))
    become(REQUESTED["words"], REQUESTED["environment"], LOG, KEPT)
