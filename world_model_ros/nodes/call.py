"""The ``call`` verb: calls a service of running nodes, where ``ros2 service call`` is not at hand."""

import argparse
import time

from world_model_ros.errors import UserError
from world_model_ros.nodes import environment

FOUND = 10.0  # seconds for the service to be found
ANSWER = 10.0  # seconds for its answer
ASK_AGAIN = 3.0  # seconds without one: the first answer of a service can be lost
# What may be asked again without a person: a reset that comes late could end a stop that came in between.
AGAIN = ("command/emergency_stop", "command/release")
SPIN = 0.05  # seconds
KINDS = {"std_srvs/srv/SetBool": True, "std_srvs/srv/Trigger": False}  # type -> whether it takes a value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``call``."""
    parser.add_argument("service", help="its name, such as planner/enable, command/reset, command/release")
    parser.add_argument(
        "value", nargs="?", choices=("true", "false"), help="for planner/enable, which takes one"
    )
    parser.add_argument("--namespace", default="", help="namespace of the nodes")


def run(arguments: argparse.Namespace) -> int:
    """Call the service and print its answer; return 1 where it refuses. Raises UserError."""
    environment.check_name("--namespace", arguments.namespace)
    environment.check_name("the service", arguments.service)
    environment.prepare()
    try:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions
    except ModuleNotFoundError as error:
        raise UserError(f"this needs ROS 2 ({error}): source it, or run `make setup`.") from None
    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("call_client", namespace=arguments.namespace, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        answer = ask(node, executor, arguments.service, arguments.value)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    print(answer.message)
    return 0 if answer.success else 1


def ask(node, executor, service: str, value: str | None):
    """Return the answer of a service. Raises UserError where there is none, or the value does not fit it."""
    from std_srvs.srv import SetBool, Trigger

    def until(condition, seconds):
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            executor.spin_once(timeout_sec=SPIN)
        return condition()

    # Before there is a client: its own type would be found, too.
    name = node.resolve_service_name(service)
    if not until(lambda: name in _known(node), FOUND):
        others = ", ".join(sorted(_known(node))) or "none"
        raise UserError(f"nobody offers {name}: start its node, or give its --namespace; there are {others}.")
    takes_value = KINDS[_known(node)[name]]
    if takes_value and value is None:
        raise UserError(f"{name} takes a value: add true or false.")
    if not takes_value and value is not None:
        raise UserError(f"{name} takes no value: leave {value} out.")
    client = node.create_client(SetBool if takes_value else Trigger, service)
    if not until(client.service_is_ready, FOUND):
        raise UserError(f"nobody offers {name}: start its node.")
    request = SetBool.Request(data=value == "true") if takes_value else Trigger.Request()
    asked, end = [], time.monotonic() + ANSWER
    while time.monotonic() < end:
        if not asked or name.endswith(AGAIN):
            asked.append(client.call_async(request))
        if until(lambda: any(future.done() for future in asked), ASK_AGAIN):
            return next(future.result() for future in asked if future.done())
    raise UserError(
        f"{name} has not answered for {ANSWER:g} s, and may have done it all the same: look at the status."
    )


def _known(node) -> dict[str, str]:
    """Return name -> type of the services of KINDS that somebody offers, or calls."""
    found = node.get_service_names_and_types()
    return {name: kind for name, kinds in found for kind in kinds if kind in KINDS}
