"""Real ROS 2 for tests: every test has a domain of its own on this machine only."""

import contextlib
import faulthandler
import fcntl
import os
import resource
import sys
from pathlib import Path

# One thread each, as in the nodes: several tests run at once, and sums must not depend on the threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from test.fork_server import ForkServer
from test.observer import Observer
from test.processes import ALWAYS, Domain, Processes, shared_memory
from world_model_ros.nodes import environment

environment.prepare(local=True)
# HYPOTHESIS_PROFILE=thorough, or --hypothesis-profile=thorough, looks longer and elsewhere each time.
EXAMPLES = int(os.environ.get("WORLD_MODEL_ROS_EXAMPLES", "1000"))
TIMEOUT = 300  # seconds of a test: pyproject.toml
ERRORS = pytest.StashKey[int]()
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


def limit(item):
    """Return the seconds that a test may take, or none."""
    marker = item.get_closest_marker("timeout")
    return TIMEOUT if marker is None else (*marker.args, marker.kwargs.get("timeout"))[0]


def pytest_collection_modifyitems(items):
    """Spread the files whose tests start nodes, and mostly wait, evenly among those that compute.

    Each of several workers begins with an equal part of the list, so at any time some wait and some compute.
    Tests that may take longest come first: no worker is left alone with them at the end. More examples may
    take longer.
    """
    for item in items:
        if item.path.parent.name == "fuzz" and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUT * max(1, EXAMPLES // 1000)))
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
    items.sort(key=lambda item: (limit(item) or 0) <= TIMEOUT)


def pytest_configure(config):
    """Keep where errors go: while tests run, stderr is captured."""
    config.stash[ERRORS] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """End this process where a test's timeout does not end the test: pytest-xdist names it, and goes on.

    No Python can interrupt rclpy while Fast DDS waits for itself: nodes/event_thread.py.
    """
    seconds = limit(item)
    if item.config.getoption("usepdb") or not seconds:
        return (yield)
    faulthandler.dump_traceback_later(60 + 2 * seconds, exit=True, file=item.config.stash[ERRORS])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


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


@pytest.fixture
def observer(domain, request):
    """Return an Observer in this test's domain."""
    pytest.importorskip("rclpy", reason="ROS 2 is not here: make setup installs it, or source one")
    watching = Observer(domain)
    # Asked for when a wait fails: a fixture that is asked for here would end after this one.
    watching.notes.append(
        lambda: [p.describe() for p in request.node.funcargs.values() if hasattr(p, "ours")]
    )
    yield watching
    watching.close()
