"""The ``call`` verb: calls a service of running nodes, where ``ros2 service call`` is not at hand."""

import argparse
import contextlib
import time

from world_model_ros.errors import UserError
from world_model_ros.nodes import environment

FOUND = 10.0  # seconds for the service to be found
ANSWER = 10.0  # seconds for its answer
ASK_AGAIN = 3.0  # seconds without one: the first answer of a service can be lost
# (service, value) of what only stops: asked at once, and again without an answer. All else is asked once, as
# a reset that comes late could end a stop that came in between.
STOPS = (("command/emergency_stop", None), ("command/release", None), ("planner/enable", "false"))
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
        caller = Caller(arguments.namespace)
    except ModuleNotFoundError as error:
        raise UserError(f"this needs ROS 2 ({error}): source it, or run `make setup`.") from None
    try:
        answer = caller.ask(arguments.service, arguments.value)
    finally:
        caller.close()
    print(answer.message)
    return 0 if answer.success else 1


class Caller:
    """A node that calls services."""

    def __init__(self, namespace: str):
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        self.context = rclpy.Context()
        rclpy.init(context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("call_client", namespace=namespace, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def close(self) -> None:
        """Leave the graph."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def until(self, condition, seconds: float) -> bool:
        """Hear messages until ``condition()``; return whether that was within ``seconds``."""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=SPIN)
        return bool(condition())

    def ask(self, service: str, value: str | None):
        """Return the answer of a service. Raises UserError where there is none, or the value does not fit."""
        from std_srvs.srv import SetBool, Trigger

        # Before there is a client: its own type would be found, too.
        name = self.node.resolve_service_name(service)
        if not self.until(lambda: name in self.known(), FOUND):
            others = ", ".join(sorted(self.known())) or "none"
            raise UserError(
                f"nobody offers {name}: start its node, or give its --namespace; there are {others}."
            )
        takes_value = KINDS[self.known()[name]]
        if takes_value and value is None:
            raise UserError(f"{name} takes a value: add true or false.")
        if not takes_value and value is not None:
            raise UserError(f"{name} takes no value: leave {value} out.")
        client = self.node.create_client(SetBool if takes_value else Trigger, service)
        if not self.until(client.service_is_ready, FOUND):
            raise UserError(f"nobody offers {name}: start its node.")
        request = SetBool.Request(data=value == "true") if takes_value else Trigger.Request()
        stops = any(name.endswith(stop) and value == how for stop, how in STOPS)
        if not stops:
            self.wait_for_answers(name)
        answer = self.request(client, request, again=stops)
        if answer is None:
            raise UserError(
                f"{name} has not answered for {ANSWER:g} s, and may have done it all the same: look at the "
                "status."
            )
        return answer

    def request(self, client, request, again: bool):
        """Return the answer within ANSWER, or None; without one, ask ``again`` every ASK_AGAIN."""
        asked, end = [], time.monotonic() + ANSWER
        while time.monotonic() < end:
            if again or not asked:
                asked.append(client.call_async(request))
            if self.until(lambda: any(future.done() for future in asked), ASK_AGAIN):
                return next(future.result() for future in asked if future.done())
        return None

    def wait_for_answers(self, name: str) -> None:
        """Wait until the node that offers the service ``name`` would answer this one.

        A node cannot answer before it has discovered the client, and the client cannot see when that is. A
        node discovers what another one has made in the order of its making: where it answers for its
        parameters, to a client made later, it knows the client made before. Raises UserError where it does
        not: then nothing was asked, and nothing happens later.
        """
        from rcl_interfaces.srv import GetParameters

        if not self.until(lambda: self.owner(name), FOUND):
            raise UserError(f"nobody offers {name}: start its node.")
        owner, offered = self.owner(name)
        if f"{owner}/get_parameters" not in offered:
            return  # other software
        parameters = self.node.create_client(GetParameters, f"{owner}/get_parameters")
        if (
            not self.until(parameters.service_is_ready, FOUND)
            or self.request(parameters, GetParameters.Request(), again=True) is None
        ):
            raise UserError(
                f"{owner} has not answered for {ANSWER:g} s, so {name} was not called: see what its log "
                "says, and whether the computer is overloaded."
            )

    def owner(self, name: str) -> tuple[str, set[str]] | None:
        """Return the full name of the node that offers the service ``name``, and all that it offers."""
        from rclpy.node import NodeNameNonExistentError

        for node, namespace in self.node.get_node_names_and_namespaces():
            with contextlib.suppress(NodeNameNonExistentError):  # it has just gone
                found = self.node.get_service_names_and_types_by_node(node, namespace)
                offered = {service for service, _ in found}
                if name in offered:
                    return f"{namespace.rstrip('/')}/{node}", offered
        return None

    def known(self) -> dict[str, str]:
        """Return name -> type of the services of KINDS that somebody offers, or calls."""
        found = self.node.get_service_names_and_types()
        return {name: kind for name, kinds in found for kind in kinds if kind in KINDS}
