"""Real ROS 2 for tests: every test has a domain of its own on this machine only."""

import contextlib
import fcntl
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from world_model_ros.nodes import environment

environment.prepare(local=True)
# HYPOTHESIS_PROFILE=thorough, or --hypothesis-profile=thorough, looks longer and elsewhere each time.
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
    "thorough", max_examples=1000, stateful_step_count=60, deadline=None, suppress_health_check=SLOW
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
ROOT = Path(__file__).resolve().parents[1]
_domains = itertools.count(os.getpid() * 13)
# Linux hands out the ports of domains above 101 to anybody.
DOMAINS = range(5, 102)
PATIENCE = 60.0  # seconds for anything to come up on a busy machine


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Return a checkpoint with random weights: enough for everything but reaching goals."""
    torch = pytest.importorskip("torch")
    from world_model_ros.model.checkpoint import save_checkpoint
    from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig
    from world_model_ros.model.lewm import LeWorldModel

    torch.manual_seed(0)
    config = ModelConfig.small(action_dim=10)
    action = ActionSpec(
        names=("linear_x", "linear_y"),
        kind="twist",
        unit="m/s",
        mean=(0.0, 0.0),
        std=(0.2, 0.2),
        low=(-0.4, -0.4),
        high=(0.4, 0.4),
        frame="panda_link0",
    )
    spec = CheckpointSpec(model=config, image=ImageSpec(size=64), action=action, period=0.05, block=5)
    return str(save_checkpoint(tmp_path_factory.mktemp("models") / "random", LeWorldModel(config), spec))


@pytest.fixture
def resident():
    """Return a function that says this process's resident memory in MB."""

    def measure():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6

    return measure


def shared_memory():
    """Return the segments of DDS participants on this machine; each belongs to one."""
    # fastrtps_ before Fast DDS 3
    found = itertools.chain(*(Path("/dev/shm").glob(f"{name}_*") for name in ("fastdds", "fastrtps")))
    return {path for path in found if not path.name.endswith("_el") and "_port" not in path.name}


@pytest.fixture(scope="session", autouse=True)
def no_memory_of_the_dead():
    """Remove the shared memory of processes that tests kill, which nobody else does."""
    before = shared_memory()
    yield
    for segment in shared_memory() - before:
        lock = segment.with_name(f"{segment.name}_el")
        with contextlib.suppress(OSError):  # locked: somebody lives
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment.unlink()
            lock.unlink()


class Processes:
    """Starts programs of this package, and leaves none behind."""

    def __init__(self, folder, domain):
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.environment = os.environ | {
            "ROS_DOMAIN_ID": str(domain),
            # A sourced ROS 2 is in there too.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "WORLD_MODEL_ROS_TEST": self.mark,
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.started = []

    def start(self, *words):
        """Run ``python <words>``; its output goes to ``process.log``."""
        path = self.folder / f"{len(self.started)}.log"
        with path.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process.log = path
        self.started.append(process)
        return process

    def sim(self, *options):
        """Run the sim verb."""
        return self.start("-m", "world_model_ros", "sim", *options)

    def node(self, name, config=True, **parameters):
        """Run one node with these parameters, and those of config/sim.yaml where ``config``."""
        words = ["-m", "world_model_ros.nodes", name, "--ros-args"]
        words += ["--params-file", "config/sim.yaml"] if config else []
        for key, value in parameters.items():
            words += ["-p", f"{key}:={value}"]
        return self.start(*words)

    def ours(self):
        """Return pid -> command line of all processes that were started, children included."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return {pid: line for pid, line in found.items() if line}

    def alive(self):
        """Return the command lines of all processes that were started, children included."""
        return list(self.ours().values())

    def shared_memory(self, process):
        """Return the segments that a running process keeps the lock of: its own ones."""
        locks = {os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
        return {path for path in shared_memory() if f"{path}_el" in locks}

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
                threading.Event().wait(0.02)
        for process in self.started:
            process.wait()


@pytest.fixture
def domain():
    """Return a ROS_DOMAIN_ID of this test's own."""
    return DOMAINS[next(_domains) % len(DOMAINS)]


@pytest.fixture
def processes(tmp_path, domain):
    """Return a Processes in this test's domain."""
    started = Processes(tmp_path, domain)
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

    def collect(self, kind, topic, qos=100):
        """Return the list that messages on ``topic`` go into."""
        messages = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def until(self, condition, seconds=PATIENCE, again=None):
        """Spin until ``condition()``; ``again()`` is called ten times a second. Fails after ``seconds``."""
        end = time.monotonic() + seconds
        next_time = time.monotonic()
        while not condition():
            assert time.monotonic() < end, f"waited {seconds:.0f} s in vain"
            if again and time.monotonic() >= next_time:
                again()
                next_time = time.monotonic() + 0.1
            self.executor.spin_once(timeout_sec=0.05)

    def call(self, kind, name, request=None):
        """Return a service's answer."""
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready)
        future = client.call_async(request or kind.Request())
        self.until(future.done)
        return future.result()

    def close(self):
        """Leave the graph."""
        import rclpy

        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def observer(domain):
    """Return an Observer in this test's domain."""
    pytest.importorskip("rclpy", reason="ROS 2 is not here: make setup installs it, or source one")
    watching = Observer(domain)
    yield watching
    watching.close()
