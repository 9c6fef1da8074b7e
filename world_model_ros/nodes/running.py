"""How every node of this package lives and ends."""

import os
import signal
import sys
from typing import NoReturn

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from world_model_ros.errors import UserError

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
HISTORY = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
FRESH = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
DEVICE = "Where torch computes: cpu, cuda, or auto: the GPU where there is one."  # of parameter `device`
SPIN = 0.05  # seconds until a signal is noticed at the latest


class Life:
    """Spins one node in the main thread until a signal comes or the node has finished."""

    def __init__(self):
        self.ending = False
        self.executor = SingleThreadedExecutor()

    def end(self, *_):
        """Come to an end soon; a second signal changes nothing."""
        self.ending = True

    def spin(self, seconds: float = SPIN) -> None:
        """Serve callbacks for at most ``seconds``, or until one was served."""
        self.executor.spin_once(timeout_sec=max(0.0, min(seconds, SPIN)))


def run(make_node) -> NoReturn:
    """Run the node that ``make_node()`` returns, and leave the process with its exit code.

    A node has ``close()``: stop accepting, stop the worker, safe command last. It may have
    ``live(life)``, its own main loop, which returns an exit code.
    """
    # rclpy's own handlers close the context before a node can send its safe command.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    life = Life()
    node = None
    code = 0
    try:
        node = make_node()
        life.executor.add_node(node)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, life.end)
        if hasattr(node, "live"):
            code = node.live(life)
        else:
            while not life.ending:
                life.spin()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        code = 2
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is said and closed; taking torch and DDS apart costs up to a second, and a worker that
    # did not stop in time would hold it up.
    os._exit(code)


def parameter(node: Node, name: str, default, description: str, *, low=None, high=None, changeable=False):
    """Declare a parameter with its descriptor; return its value. ``low`` and ``high`` are inclusive."""
    descriptor = ParameterDescriptor(description=description, read_only=not changeable)
    if low is not None and isinstance(default, int):
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
    elif low is not None:
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    try:
        return node.declare_parameter(name, default, descriptor).value
    except rclpy.exceptions.ParameterException as error:
        raise UserError(f"parameter {name} of {node.get_name()}: {error}.") from None


def subscribe_latched(node: Node, kind, topic: str, callback):
    """Subscribe to what was said before, and to writers that do not keep what they said.

    A transient-local reader never matches a volatile writer, a volatile one hears nothing of the past: so
    there is one of each. A message that both of them get is handed on once.
    """
    last = []

    def once(message):
        if last and last[0] == message:
            return
        last[:] = [message]
        callback(message)

    quiet = rclpy.event_handler.SubscriptionEventCallbacks(use_default_callbacks=False)
    return [
        node.create_subscription(kind, topic, once, profile, event_callbacks=quiet)
        for profile in (LATCHED, RELIABLE)
    ]


def nanoseconds(stamp) -> int:
    """Return a message's stamp as integer nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def set_stamp(stamp, time: int) -> None:
    """Write integer nanoseconds into a message's stamp."""
    stamp.sec, stamp.nanosec = divmod(time, 1_000_000_000)
