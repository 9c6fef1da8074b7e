"""A node of the test, which hears the nodes that are tested."""

import contextlib
import ctypes
import os
import time
from pathlib import Path

from test.processes import TIMEOUT, pause
from world_model_ros.nodes.event_thread import LOOK, STUCK, event_threads, waits_without_end

ASK_AGAIN = 10.0  # seconds without a service's answer


class Observer:
    """A node of the test: collects messages, publishes, calls, and waits for conditions."""

    def __init__(self, domain):
        import rclpy

        from world_model_ros.nodes.running import FairExecutor

        before = event_threads()
        self.domain, self.context = domain, rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("observer", context=self.context)
        self.event_threads = [thread for thread in event_threads() if thread not in before]
        self.executor = FairExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.clients, self.asked, self.once = {}, [], {}
        self.notes = [self.heard]  # functions that return what is worth knowing when a wait fails
        self.collected = []  # (topic, list) of all lists that ``collect`` has returned

    def collect(self, kind, topic, qos=100, sent=None):
        """Return the list that messages on ``topic`` go into.

        When each was sent, in ns of the wall clock, goes into the list ``sent``, if any.
        """
        messages = []
        self.collected.append((topic, messages))

        def heard(message, info):
            messages.append(message)
            if sent is not None:
                sent.append(info["source_timestamp"])

        self.node.create_subscription(kind, topic, heard, qos)
        return messages

    def heard(self):
        """Return how many messages were collected by topic, by how many publishers, and what sockets lost."""
        counts = {t: (len(messages), self.node.count_publishers(t)) for t, messages in self.collected}
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
            return counts, {row[1]: row[-1] for row in rows if row[-1] != "0"}
        return counts

    def drain(self):
        """Hear what has come so far: spin until several times in a row nothing was waiting."""
        heard = []
        while len(heard) < 5 or heard[-1] != heard[-5]:
            self.executor.spin_once(timeout_sec=0)
            heard.append(sum(len(messages) for _, messages in self.collected))

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
            self.executor.spin_once(timeout_sec=0.02 if again else 0.05)

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

    def ask_once(self, kind, name, request=None):
        """Call a service without waiting for it, unless the last such call is under way."""
        client = self.clients.get((kind, name))
        if client is None:
            client = self.clients[kind, name] = self.node.create_client(kind, name)
        before, at = self.once.get(name, (None, 0.0))
        if before is None or before.done() or time.monotonic() > at + ASK_AGAIN:
            self.once[name] = client.call_async(request or kind.Request()), time.monotonic()

    def call(self, kind, name, request=None, again=None):
        """Return a service's answer; ``again()`` is called 20 times a second until it is there.

        The first answer of a server is lost where it does not know the reader of the answers yet, which
        nobody can see from here: where none comes, it is asked again: ``asked`` has the futures.
        """
        client = self.clients.get((kind, name))
        if client is None:
            client = self.clients[kind, name] = self.node.create_client(kind, name)
        self.until(client.service_is_ready, again=again)
        self.asked, asked_at = [], -ASK_AGAIN

        def answered():
            nonlocal asked_at
            if time.monotonic() > asked_at + ASK_AGAIN:
                self.asked.append(client.call_async(request or kind.Request()))
                asked_at = time.monotonic()
            return any(future.done() for future in self.asked)

        self.until(answered, again=again)
        return next(future for future in self.asked if future.done()).result()

    def close(self):
        """Leave the graph, unless that would wait for ever: then all stays, and the domain is kept."""
        import rclpy

        if self.is_stuck():
            self.lock = os.dup(self.domain.lock)
            for kept in (self.node, self.executor, self.context):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
            return
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def is_stuck(self):
        """Return whether Fast DDS waits for itself for ever (nodes/event_thread.py).

        That may happen whenever a process of the test ends. Nothing is waited for where it has not.
        """
        before = None
        for _ in range(STUCK):
            places = [waits_without_end(thread) for thread in self.event_threads]
            if not any(places) or (before and places != before):
                return False
            before = places
            pause(LOOK)
        return True


def said(reports):
    """Return the message of the newest of a node's health reports, or ""."""
    return reports[-1].message if reports else ""
