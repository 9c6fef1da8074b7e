"""Real ROS 2 for tests: every test has a domain of its own on this machine only."""

import contextlib
import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

# One thread each, as in the nodes: several tests run at once, and sums must not depend on the threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from test.fork_server import ForkServer, end_with_parent
from world_model_ros.nodes import environment

environment.prepare(local=True)
# HYPOTHESIS_PROFILE=thorough, or --hypothesis-profile=thorough, looks longer and elsewhere each time.
EXAMPLES = int(os.environ.get("WORLD_MODEL_ROS_EXAMPLES", "1000"))
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile(
    "quick",
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=SLOW,
)
settings.register_profile(
    "thorough", max_examples=EXAMPLES, stateful_step_count=60, deadline=None, suppress_health_check=SLOW
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
ROOT = Path(__file__).resolve().parents[1]
# Linux hands out the ports of domains above 101 to anybody; the benchmark takes the last ones below.
DOMAINS = range(5, 90)
ALWAYS = {  # in the environment of processes
    # A sourced ROS 2 is in there too.
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
ASK_AGAIN = 10.0  # seconds without a service's answer
TIMEOUT = 60.0  # seconds for anything to come up on a busy machine


def pytest_collection_modifyitems(items):
    """Spread the files whose tests start nodes, and mostly wait, evenly among those that compute.

    Each of several workers begins with an equal part of the list, so at any time some wait and some compute.
    """
    files = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    kinds = [], []
    for tests in files.values():
        kinds[any(test.get_closest_marker("ros") for test in tests)].append(tests)
    counts = [sum(map(len, kind)) or 1 for kind in kinds]
    taken = [0, 0]
    items.clear()
    while any(kinds):
        kind = min((k for k in (0, 1) if kinds[k]), key=lambda k: taken[k] / counts[k])
        tests = kinds[kind].pop(0)
        taken[kind] += len(tests)
        items.extend(tests)


def write_checkpoint(folder, kind, names, unit, frame=""):
    """Write a checkpoint with random weights for two actions of up to 0.4; return its path."""
    torch = pytest.importorskip("torch")
    from world_model_ros.model.checkpoint import save_checkpoint
    from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig
    from world_model_ros.model.lewm import LeWorldModel

    torch.manual_seed(0)
    config = ModelConfig.small(action_dim=10)
    action = ActionSpec(
        names=names,
        kind=kind,
        unit=unit,
        mean=(0.0, 0.0),
        std=(0.2, 0.2),
        low=(-0.4, -0.4),
        high=(0.4, 0.4),
        frame=frame,
    )
    spec = CheckpointSpec(model=config, image=ImageSpec(size=64), action=action, period=0.05, block=5)
    return str(save_checkpoint(folder, LeWorldModel(config), spec))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Return a checkpoint with random weights: enough for everything but reaching goals."""
    folder = tmp_path_factory.mktemp("models") / "random"
    return write_checkpoint(folder, "twist", ("linear_x", "linear_y"), "m/s", "panda_link0")


@pytest.fixture(scope="session")
def arm_checkpoint(tmp_path_factory):
    """Return such a checkpoint whose actions are the velocities of joint1 and joint2."""
    folder = tmp_path_factory.mktemp("models") / "arm"
    return write_checkpoint(folder, "joint_velocity", ("joint1", "joint2"), "rad/s")


@pytest.fixture
def resident():
    """Return a function that returns this process's resident memory in MB."""

    def measure():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6

    return measure


def shared_memory():
    """Return the segments of DDS participants on this machine; each belongs to one."""
    # fastrtps_ before Fast DDS 3
    segments = [path for name in ("fastdds", "fastrtps") for path in Path("/dev/shm").glob(f"{name}_*")]
    return {path for path in segments if not path.name.endswith("_el") and "_port" not in path.name}


@pytest.fixture(scope="session", autouse=True)
def remove_leftover_shared_memory():
    """Remove the shared memory of killed processes, which nothing else removes."""
    before = shared_memory()
    yield
    for segment in shared_memory() - before:
        lock = segment.with_name(f"{segment.name}_el")
        with contextlib.suppress(OSError):  # locked: somebody lives
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment.unlink()
            lock.unlink()


def pause(seconds):
    """Let others work."""
    threading.Event().wait(seconds)


class Domain(int):
    """A ROS_DOMAIN_ID that nobody else on this machine tests in: a file is locked for as long."""

    lock: int  # the file's descriptor: processes that inherit it keep the domain when this one dies

    @classmethod
    def claim(cls, seconds=TIMEOUT):
        """Return one that is free. Fails when there is none for ``seconds``."""
        folder = Path(tempfile.gettempdir())
        end = time.monotonic() + seconds
        while True:
            # From the system's randomness: a seed that tests have set must not lead all to the same one.
            for number in random.SystemRandom().sample(DOMAINS, len(DOMAINS)):
                path = folder / f"world_model_ros_domain_{number}.lock"
                try:
                    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                except PermissionError:  # another user's
                    continue
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    continue
                domain = cls(number)
                domain.lock = lock
                return domain
            assert time.monotonic() < end, f"all domains of {DOMAINS} are in use"
            pause(0.1)

    def release(self):
        """Let others have it, once the processes that inherited it have ended."""
        os.close(self.lock)


class Processes:
    """Starts programs of this package, and leaves none behind."""

    def __init__(self, folder, domain, server=None):
        self.folder, self.domain, self.server = folder, domain, server
        self.mark = uuid.uuid4().hex
        self.environment = (
            os.environ
            | ALWAYS
            | {
                "ROS_DOMAIN_ID": str(domain),
                # What nodes remember and log stays in the test's folder.
                "ROS_HOME": str(folder / "ros"),
                "ROS_LOG_DIR": str(folder / "ros" / "log"),
                "WORLD_MODEL_ROS_TEST": self.mark,
            }
        )
        self.started = []

    def start(self, *words):
        """Run ``python <words>``; its output goes to ``process.log``."""
        path = self.folder / f"{len(self.started)}.log"
        with path.open("wb") as file:
            process = self.fork(words, file) or subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self.domain.lock,),
                preexec_fn=end_with_parent,
            )
        process.log = path
        self.started.append(process)
        return process

    def fork(self, words, file):
        """Start a node, or a script of a test, by the fork server; return None where there is none."""
        if self.server is None or words[:2] == ("-m", "world_model_ros") or words[0] not in ("-m", "-c"):
            return None
        return self.server().start(words, self.environment, file.fileno(), self.domain.lock)

    def sim(self, *options):
        """Run the sim verb."""
        return self.start("-m", "world_model_ros", "sim", *options)

    def use_shared_memory(self):
        """Start the following nodes with the settings that robot.launch.py gives them, for large pictures."""
        self.environment |= {
            environment.profile_variable(): str(environment.share() / "config" / "fastdds.xml"),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        }

    def node(self, name, config=True, **parameters):
        """Run one node with these parameters, and those of config/sim.yaml where ``config``."""
        words = ["-m", "world_model_ros.nodes", name, "--ros-args"]
        words += ["--params-file", "config/sim.yaml"] if config else []
        for key, value in parameters.items():
            words += ["-p", f"{key}:={value}"]
        return self.start(*words)

    def ours(self):
        """Return pid -> command line of all processes that were started, children included."""
        lines = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    lines[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        # Of a fork /proc tells what its server was started with.
        lines |= {p.pid: " ".join(p.args) for p in self.started if p.poll() is None}
        return {pid: line for pid, line in lines.items() if line}

    def describe(self):
        """Return of each process how it ended, if it has, and the end of its log."""
        return [(p.poll(), p.log.read_text(errors="replace")[-800:]) for p in self.started]

    def alive(self):
        """Return the command lines of all processes that were started, children included."""
        return list(self.ours().values())

    def shared_memory(self, process):
        """Return the segments that a running process keeps the lock of: its own ones."""
        locks = {os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
        return {path for path in shared_memory() if f"{path}_el" in locks}

    def ends_within(self, process, limit, spin=pause):
        """Wait until a process has ended, which may take ``limit`` seconds; ``spin(0.05)`` passes the time.

        While it waits for a processor, or its children or this test do, no time counts: what else runs on
        the machine must not decide. Fails in the end.
        """

        def waited():
            seconds = {}
            for pid in (os.getpid(), *self.ours()):
                with contextlib.suppress(OSError):
                    seconds[pid] = 1e-9 * int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
            return seconds

        began, before, last = time.monotonic(), waited(), {}
        while process.poll() is None:
            spin(0.05)
            last |= waited()
            lost = sum(seconds - before.get(pid, 0.0) for pid, seconds in last.items())
            took = time.monotonic() - began
            assert took - lost < limit, f"alive after {took:.1f} s, {lost:.1f} s of them without a processor"
            assert took < 5 * TIMEOUT

    def kill(self, name, number=signal.SIGKILL):
        """Send a signal to every process with ``name`` in its command line."""
        for pid, line in self.ours().items():
            if name in line:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def end(self):
        """Stop what is left; killed at once it would leave its shared memory behind."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.kill("", number)
            end = time.monotonic() + 3.0
            while time.monotonic() < end and any(p.poll() is None for p in self.started):
                pause(0.02)
        for process in self.started:
            process.wait()


@pytest.fixture
def domain():
    """Return a ROS_DOMAIN_ID of this test's own."""
    claimed = Domain.claim()
    yield claimed
    claimed.release()


@pytest.fixture(scope="session")
def fork_server():
    """Return a function that returns the ForkServer, which begins with the first call."""
    servers = []

    def get():
        if not servers:
            servers.append(ForkServer(os.environ | ALWAYS))
        return servers[0]

    yield get if sys.platform == "linux" else None
    for server in servers:
        server.close()


@pytest.fixture
def processes(tmp_path, domain, fork_server):
    """Return a Processes in this test's domain."""
    started = Processes(tmp_path, domain, fork_server)
    yield started
    started.end()


class Observer:
    """A node of the test: collects messages, publishes, calls, and waits for conditions."""

    def __init__(self, domain):
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("observer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.clients, self.asked = {}, []
        self.notes = [self.heard]  # functions that return what is worth knowing when a wait fails
        self.topics = []
        self.collected = []  # all lists that ``collect`` has returned

    def collect(self, kind, topic, qos=100, sent=None):
        """Return the list that messages on ``topic`` go into.

        When each was sent, in ns of the wall clock, goes into the list ``sent``, if any.
        """
        messages = []
        self.collected.append(messages)
        self.topics.append(topic)

        def heard(message, info):
            messages.append(message)
            if sent is not None:
                sent.append(info["source_timestamp"])

        self.node.create_subscription(kind, topic, heard, qos)
        return messages

    def heard(self):
        """Return how many messages were collected by topic, by how many publishers, and what sockets lost."""
        pairs = zip(self.topics, map(len, self.collected), strict=True)
        counts = {topic: (count, self.node.count_publishers(topic)) for topic, count in pairs}
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
            return counts, {row[1]: row[-1] for row in rows if row[-1] != "0"}
        return counts

    def drain(self):
        """Hear what has come so far: spin until several times in a row nothing was waiting."""
        heard = []
        while len(heard) < 5 or heard[-1] != heard[-5]:
            self.executor.spin_once(timeout_sec=0)
            heard.append(sum(map(len, self.collected)))

    def until(self, condition, seconds=TIMEOUT, again=None):
        """Spin until ``condition()``; ``again()`` is called 20 times a second. Fails after ``seconds``."""
        end = time.monotonic() + seconds
        next_time = time.monotonic()
        while not condition():
            assert time.monotonic() < end, (
                f"waited {seconds:.0f} s in vain; {[note() for note in self.notes]}"
            )
            if again and time.monotonic() >= next_time:
                again()
                next_time = time.monotonic() + 0.05
            self.executor.spin_once(timeout_sec=0.05)

    def spin(self, seconds):
        """Hear one message, or wait for it as long."""
        self.executor.spin_once(timeout_sec=seconds)

    def spin_while(self, condition, seconds):
        """Hear messages while ``condition()``, for some seconds at most."""
        end = time.monotonic() + seconds
        while condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)

    def repeat(self, action, times):
        """Call ``action()`` this often, 20 times a second, and return its results."""
        results = []
        seconds = TIMEOUT + times
        self.until(lambda: len(results) >= times, seconds, lambda: results.append(action()))
        return results

    def call(self, kind, name, request=None):
        """Return a service's answer.

        The first answer of a server is lost where it does not know the reader of the answers yet, which
        nobody can see from here: where none comes, it is asked again: ``asked`` has the futures.
        """
        client = self.clients.get((kind, name))
        if client is None:
            client = self.clients[kind, name] = self.node.create_client(kind, name)
        self.until(client.service_is_ready)
        self.asked, asked_at = [], -ASK_AGAIN

        def answered():
            nonlocal asked_at
            if time.monotonic() > asked_at + ASK_AGAIN:
                self.asked.append(client.call_async(request or kind.Request()))
                asked_at = time.monotonic()
            return any(future.done() for future in self.asked)

        self.until(answered)
        return next(future for future in self.asked if future.done()).result()

    def close(self):
        """Leave the graph."""
        import rclpy

        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def observer(domain, request):
    """Return an Observer in this test's domain."""
    pytest.importorskip("rclpy", reason="ROS 2 is not here: make setup installs it, or source one")
    watching = Observer(domain)
    if "processes" in request.fixturenames:
        watching.notes.append(request.getfixturevalue("processes").describe)
    yield watching
    watching.close()


def said(reports):
    """Return the message of the newest of a node's health reports, or ""."""
    return reports[-1].message if reports else ""
