"""Runs a node of this package, from rclpy.init to the exit of the process."""

import os
import signal
import sys
import time
from typing import NoReturn

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from world_model_ros.errors import UserError
from world_model_ros.nodes.arguments import explain
from world_model_ros.nodes.event_thread import EventThreads

FAILED = 2  # exit code after an error that was printed as a sentence
DEAF = 4  # exit code of a process that Fast DDS has left without news of other nodes
IS_DEAF = "Fast DDS seems to wait for itself for ever, see eProsima/Fast-DDS issue 6502"
LINGER = 0.3  # seconds in which others can read a node's last messages
CLOSING = 10  # seconds after which a process that does not come to its end is ended
SPIN = 0.05  # seconds until a signal is noticed at the latest


class FairExecutor(SingleThreadedExecutor):
    """Serves all that is ready in turn, also where one call's timeout differs from the last one's.

    rclpy looks at everything anew then, from the first entity on: on a busy computer, where that one is ready
    each time, the last ones would never be served.
    """

    def wait_for_ready_callbacks(self, *args, **kwargs):
        """Return the next one that is ready; what was ready before comes first."""
        self._last_args, self._last_kwargs = args, kwargs  # with which rclpy compares them
        return super().wait_for_ready_callbacks(*args, **kwargs)


class ExecutorLoop:
    """Spins one node in the main thread until a signal comes or the node has finished."""

    def __init__(self):
        self.stopping = False
        self.deaf = False  # whether it is stopping since Fast DDS does not work any more
        self.executor = FairExecutor()
        self._event_threads = EventThreads()

    def stop(self, *_):
        """Stop spinning soon; a second signal changes nothing."""
        self.stopping = True

    def spin(self, seconds: float = SPIN) -> None:
        """Serve callbacks for at most ``seconds``, or until one was served."""
        self.executor.spin_once(timeout_sec=max(0.0, min(seconds, SPIN)))
        if self._event_threads.stuck(time.monotonic()):
            self.deaf = self.stopping = True


def run(make_node) -> NoReturn:
    """Run the node that ``make_node()`` returns, and leave the process with its exit code.

    Raises UserError for a command line that ROS cannot read.
    A node has ``close()``: stop accepting, stop the worker, safe command last. It may have
    ``main_loop(loop)``, its own main loop, which returns an exit code. A managed node is configured and
    activated, unless its parameter autostart is false, and ends the process by its ``exit_code``. Where Fast
    DDS does not work any more, the main loop ends as after a signal, the exit code is DEAF, and nothing is
    destroyed, which would wait for ever.
    """
    try:
        # rclpy's own handlers close the context before a node can send its safe command.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # RCLError is one
        raise UserError(explain(error)) from None
    loop = ExecutorLoop()
    node = main_loop = None
    code = 0
    try:
        node = make_node()
        loop.executor.add_node(node)
        main_loop = getattr(node, "main_loop", None)
        # Until here, and while loading, a signal ends the process at once: nothing has moved yet.
        if not main_loop and node.values["autostart"] and not _started(node):
            node.exit_code = FAILED
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, loop.stop)
        if main_loop:
            code = main_loop(loop)
        else:
            while not loop.stopping and node.exit_code is None:
                loop.spin()
            code = node.exit_code or 0
        if loop.deaf:
            signal.alarm(CLOSING)
            code = DEAF
            if not main_loop:
                node.may_have_missed(IS_DEAF)
            node.get_logger().fatal(f"{IS_DEAF}: this process hears of no new node any more, and ends")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = FAILED
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.alarm(CLOSING)  # to destroy may wait for ever, too, and no Python runs meanwhile
        if node is not None:
            if not loop.deaf:
                node.close()
            if not main_loop:
                node.publish_end()
            # The last message, a safe command or an answer, is in shared memory that is freed with the node.
            time.sleep(LINGER)
            if not loop.deaf:
                node.destroy_node()
        if not loop.deaf:
            rclpy.try_shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is published and closed. To unload torch and DDS takes up to a second, and a worker that
    # did not stop in time would block it.
    os._exit(code)


def _started(node) -> bool:
    """Configure and activate a managed node; return whether that succeeded. The node logs why not."""
    return all(
        transition() == TransitionCallbackReturn.SUCCESS
        for transition in (node.trigger_configure, node.trigger_activate)
    )
