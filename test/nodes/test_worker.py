import subprocess
import sys
import threading
from pathlib import Path

import pytest

from world_model_ros.nodes.worker import Worker

TIMEOUT = 20.0
ROOT = Path(__file__).resolve().parents[2]


class Desk:
    """What a worker does is under the test's control: a job begins, and ends when it is let go."""

    def __init__(self):
        self.began, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.done, self.errors = [], []
        self.failed = threading.Semaphore(0)
        self.worker = Worker(self.work, self.fail)

    def work(self, job):
        self.began.release()
        assert self.go.acquire(timeout=TIMEOUT)
        self.done.append(job)
        if isinstance(job, BaseException):
            raise job

    def fail(self, error, text):
        self.errors.append((error, text))
        self.failed.release()

    def start(self, job):
        """Hand over a job, and wait until it is being done."""
        self.worker.submit(job)
        assert self.began.acquire(timeout=TIMEOUT)

    def end(self):
        """Let everything end."""
        for _ in range(10):
            self.go.release()
        return self.worker.stop(TIMEOUT)


@pytest.fixture
def desk():
    desk = Desk()
    yield desk
    assert desk.end()


def test_jobs_are_done_one_after_the_other(desk):
    for job in (1, 2, 3):
        desk.start(job)
        desk.go.release()
    assert desk.end()
    assert desk.done == [1, 2, 3]
    assert not desk.worker.alive
    assert desk.worker.replaced == 0


@pytest.mark.fault
def test_fault_16_of_the_jobs_that_wait_only_the_newest_is_done(desk):
    desk.start(1)
    for job in (2, 3, 4):
        desk.worker.submit(job)
    desk.go.release()
    assert desk.began.acquire(timeout=TIMEOUT)
    assert desk.end()
    assert desk.done == [1, 4]
    assert desk.worker.replaced == 2


@pytest.mark.fault
def test_fault_17_what_a_job_raises_is_handed_on_with_its_traceback_and_the_next_one_is_done(desk):
    error = RuntimeError("the model is broken")
    desk.start(error)
    desk.go.release()
    assert desk.failed.acquire(timeout=TIMEOUT)
    (raised, text), *more = desk.errors
    assert (raised, more) == (error, [])
    assert "Traceback" in text
    assert "in work" in text
    assert "the model is broken" in text
    desk.start("next")
    assert desk.end()
    assert desk.done == [error, "next"]


@pytest.mark.fault
def test_fault_17_a_job_that_does_not_end_is_seen_with_where_it_hangs(desk, monkeypatch):
    assert desk.worker.busy() == 0.0
    now = [1000.0]
    monkeypatch.setattr("world_model_ros.nodes.worker.time.monotonic", lambda: now[0])
    desk.start("slow")
    now[0] += 7.5
    assert desk.worker.busy() == 7.5
    assert "in work" in desk.worker.stack()
    assert not desk.worker.stop(0.01)
    assert desk.worker.alive


@pytest.mark.fault
def test_fault_17_a_job_that_waits_for_a_processor_does_not_hang(desk, monkeypatch):
    now, waited = [1000.0], [3.0]
    monkeypatch.setattr("world_model_ros.nodes.worker.time.monotonic", lambda: now[0])
    monkeypatch.setattr("world_model_ros.nodes.worker.without_processor", lambda: waited[0])
    assert not desk.worker.hangs(5.0)
    desk.start("slow")
    now[0] += 1.0
    assert not desk.worker.hangs(5.0)
    now[0] += 9.0
    waited[0] += 6.0
    assert not desk.worker.hangs(5.0)
    now[0] += 1.5
    assert desk.worker.hangs(5.0)
    waited[0] += 15.0
    assert not desk.worker.hangs(5.0)
    now[0] += 20.0
    assert desk.worker.hangs(5.0)  # no computer is as busy as that
    desk.go.release()
    desk.start("next")
    now[0] += 4.9
    assert not desk.worker.hangs(5.0)  # what the last one had waited is nothing to it
    now[0] += 0.2
    assert desk.worker.hangs(5.0)


WAITS = """
import os, time
from world_model_ros.nodes.worker import without_processor
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
before, parent = without_processor(), os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        pass
    os._exit(0)
end = time.monotonic() + 60.0
while without_processor() < before + 0.2 and time.monotonic() < end:
    pass
print(without_processor() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does not tell")
def test_two_processes_on_one_processor_wait_for_it():
    done = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout) >= 0.2


def test_nothing_is_busy_between_jobs(desk):
    desk.start(RuntimeError())
    desk.go.release()
    assert desk.failed.acquire(timeout=TIMEOUT)
    desk.start(1)
    desk.go.release()
    assert desk.end()
    assert desk.worker.busy() == 0.0
    assert desk.worker.stack() == ""


def test_after_stopping_no_job_is_taken(desk):
    assert desk.end()
    desk.worker.submit(1)
    assert desk.done == []


def test_stopping_lets_the_job_at_hand_end_and_leaves_the_one_that_waits(desk):
    desk.start(1)
    desk.worker.submit(2)
    assert not desk.worker.stop(0.0)  # told to, while the first is being done
    assert desk.end()
    assert desk.done == [1]


def test_a_thread_whose_failure_cannot_be_told_goes_on(capsys):
    done = threading.Event()

    def work(job):
        if job == "broken":
            raise RuntimeError(job)
        done.set()

    def fail(error, text):
        told.set()
        raise OSError("the node is gone")

    told = threading.Event()
    worker = Worker(work, fail)
    worker.submit("broken")
    assert told.wait(TIMEOUT)
    worker.submit("next")
    assert done.wait(TIMEOUT)
    assert worker.stop(TIMEOUT)
    assert "the node is gone" in capsys.readouterr().err
