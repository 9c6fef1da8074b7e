"""Programs that a test starts, in a domain of its own, of which none is left behind."""

import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from test.fork_server import end_with_parent
from world_model_ros.nodes import environment

ROOT = Path(__file__).resolve().parents[1]
# Linux hands out the ports of domains above 101 to anybody; the benchmark takes the last ones below.
DOMAINS = range(5, 90)
ALWAYS = {  # in the environment of processes
    # A sourced ROS 2 is in there too.
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
TIMEOUT = 60.0  # seconds for anything to come up on a busy machine


def shared_memory():
    """Return the segments of DDS participants on this machine; each belongs to one."""
    # fastrtps_ before Fast DDS 3
    segments = [path for name in ("fastdds", "fastrtps") for path in Path("/dev/shm").glob(f"{name}_*")]
    return {path for path in segments if not path.name.endswith("_el") and "_port" not in path.name}


def pause(seconds):
    """Let others work."""
    threading.Event().wait(seconds)


def without_processor(pid):
    """Return for how long a process's main thread, and those that receive, have waited for a processor, s."""
    seconds = 0.0
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError, IndexError):  # it has ended
            if thread.name == str(pid) or (thread / "comm").read_text().startswith("dds.udp"):
                seconds += 1e-9 * int((thread / "schedstat").read_text().split()[1])
    return seconds


def threads(pid):
    """Return what the threads of a process do, in one line: of a node that hangs it tells where.

    Each by its name, state, processor time in ms, and what it waits for: the system call, and its address and
    timeout, which a lock has not.
    """
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError, IndexError):  # it has ended
            name = (thread / "comm").read_text().strip()
            state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
            ran = int((thread / "schedstat").read_text().split()[0]) // 1_000_000
            call = (thread / "syscall").read_text().split()
            found.append(" ".join([name, state, str(ran), *call[:2], *call[4:5]]))
    return ", ".join(found)


class Domain(int):
    """A ROS_DOMAIN_ID that nobody else on this machine tests in: a file is locked for as long."""

    lock: int  # the file's descriptor: processes that inherit it keep the domain when this one dies

    @property
    def file(self):
        """The file that is locked."""
        return Path(tempfile.gettempdir()) / f"world_model_ros_domain_{int(self)}.lock"

    @classmethod
    def claim(cls, seconds=TIMEOUT):
        """Return one that is free. Fails when there is none for ``seconds``."""
        end = time.monotonic() + seconds
        while True:
            # From the system's randomness: a seed that tests have set must not lead all to the same one.
            for number in random.SystemRandom().sample(DOMAINS, len(DOMAINS)):
                try:
                    lock = os.open(cls(number).file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
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
        """Return of each process how it ended, if it has, and the end of its log; and what the threads do."""
        logs = [(p.poll(), p.log.read_text(errors="replace")[-2000:]) for p in self.started]
        return logs, [f"{line[:120]}: {threads(pid)}" for pid, line in self.ours().items()]

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
